"""One export on its way to disk: every flavour written, run by its runtime, and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

import edgeattn
from edgeattn.bundle import seal, weights_name
from edgeattn.errors import CaptureError
from edgeattn.exporters.choose import Choice, choose, choose_portable
from edgeattn.exporters.gate import run_gate, small_cases
from edgeattn.exporters.locating import Run, first_difference
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.probing import Prover, square_only
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.sites import GraphSite, find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.golden import write_case
from edgeattn.manifest import Flavour, GoldenCase, Manifest, OutputInfo, Probe, TensorInfo
from edgeattn.probe import environment
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime
from edgeattn.tolerance import default_class

Progress = Callable[[str], None]
PRECISION = "fp32"
PORTABLE, CANONICAL = "portable", "canonical"
_INLINE = 1024
"""Bytes up to which a tensor stays in its graph; larger ones go to the shared weight file."""


@dataclass(frozen=True, slots=True)
class Job:
    """One export on its way: everything known before the first file is written."""

    source: Source
    canonical: ir.Model
    cases: list[ReferenceCase]
    targets: list[tuple[Runtime, str]]
    forced: str | None
    work: Path
    prover: Prover
    say: Progress

    def write(self) -> tuple[list[FlavourReport], Manifest]:
        """Write every file, run every gate, seal."""
        sites = find_sites(self.canonical)
        missed = unraised(self.canonical)
        ir.external_data.unload_from_model(self.canonical, self.work, weights_name(PRECISION), size_threshold_bytes=_INLINE)
        rows = [self._target(runtime, device, sites) for runtime, device in self.targets]
        rows += [self._portable(sites), self._canonical()]
        rows = [self._located(row, rows) for row in rows]
        probes = self._probes(sites, rows)
        manifest = Manifest(
            edgeattn=edgeattn.__version__,
            source={"kind": self.source.kind, "name": self.source.name, "torch": torch.__version__},
            inputs=self._inputs(),
            outputs=self._outputs(),
            sites=tuple(site.record() for site in sites),
            unraised=tuple(missed),
            flavours=tuple(row.flavour for row in rows),
            golden=self._golden(),
            probes=probes,
            files={},
            padding=self.source.padding,
            limits=self._limits(),
            tokenizer=self.source.tokenizer,
            preprocessing=self.source.preprocessing,
            provenance=self.source.provenance,
        )
        for name, path in self.source.files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.work / name)
        return rows, seal(self.work, manifest)

    def _target(self, runtime: Runtime, device: str, sites: list[GraphSite]) -> FlavourReport:
        self.say(f"choosing lowerings for {runtime.name}:{device}")
        limits = self._limits()
        choices = {site.name: choose(site.core(limits), runtime, device, self.prover, self.forced) for site in sites}
        lowerings = {name: choice.lowering for name, choice in choices.items()}
        model = lower(self.canonical, lowerings, limits, functions=runtime.functions)
        return self._flavour(f"{runtime.name}:{device}", model, choices, runtime, device, self.cases)

    def _portable(self, sites: list[GraphSite]) -> FlavourReport:
        """Standard operators of opset 18 only: for any runtime, here gated on the first target's."""
        limits = self._limits()
        choices = {site.name: choose_portable(site.core(limits), self.targets, self.prover) for site in sites}
        model = lower(self.canonical, {name: choice.lowering for name, choice in choices.items()}, limits)
        runtime, device = self.targets[0]
        return self._flavour(PORTABLE, model, choices, runtime, device, self.cases)

    def _canonical(self) -> FlavourReport:
        """One node per core, its body a function; gated on the reference runtime at the sizes numpy can manage."""
        runtime = registry.get("reference")
        return self._flavour(CANONICAL, self.canonical, {}, runtime, "cpu", small_cases(self.cases))

    def _flavour(
        self,
        target: str,
        model: ir.Model,
        choices: Mapping[str, Choice],
        runtime: Runtime,
        device: str,
        cases: list[ReferenceCase],
    ) -> FlavourReport:
        file = f"{target.replace(':', '-')}.onnx"
        ir.save(model, self.work / file)
        verdict = run_gate(
            self.work / file,
            runtime,
            device,
            cases,
            self._outputs(),
            self._padding(),
            lambda text: self.say(f"parity on {text}"),
        )
        flavour = Flavour(
            target=target,
            precision=PRECISION,
            file=file,
            domains=dict(model.graph.opset_imports),
            lowerings={name: choice.lowering.name for name, choice in choices.items()},
            reasons={name: choice.reason for name, choice in choices.items()},
            parity=verdict.parity,
            environment={"runtime": runtime.name, "device": device, **environment(runtime, device)},
        )
        weights = self.work / weights_name(PRECISION)
        size = (self.work / file).stat().st_size + (weights.stat().st_size if weights.exists() else 0)
        return FlavourReport(flavour, size, verdict.reason, verdict.failed)

    def _located(self, row: FlavourReport, rows: list[FlavourReport]) -> FlavourReport:
        """With the first node that differs, where a form that passed can be read beside it."""
        trusted = next((other for other in rows if not other.failure), None)
        if row.failed is None or trusted is None:
            return row
        self.say(f"locating where {row.flavour.target} differs")
        place = first_difference(self._run_of(row), self._run_of(trusted), row.failed.inputs)
        return replace(row, failure=f"{row.failure}; {place}")

    def _run_of(self, row: FlavourReport) -> Run:
        environment = row.flavour.environment
        return Run(self.work / row.flavour.file, registry.get(environment["runtime"]), environment["device"])

    def _probes(self, sites: list[GraphSite], rows: list[FlavourReport]) -> tuple[Probe, ...]:
        """A probe per form used, so that another device can prove it again."""
        probes: dict[str, Probe] = {}
        cores = {site.name: site.core(self._limits()) for site in sites}
        for i, row in enumerate(rows):
            files = []
            for name, lowering in row.flavour.lowerings.items():
                path = self.prover.model(get(lowering), cores[name])
                file = f"probes/{path.name}"
                files.append(file)
                probes.setdefault(file, Probe(file, lowering, cores[name].spec, square_only(get(lowering), cores[name])))
                (self.work / "probes").mkdir(exist_ok=True)
                shutil.copyfile(path, self.work / file)
            rows[i] = replace(row, flavour=replace(row.flavour, probes=tuple(sorted(set(files)))))
        return tuple(probes.values())

    def _golden(self) -> tuple[GoldenCase, ...]:
        return tuple(write_case(self.work, case.name, case.sizes, case.inputs, case.outputs) for case in self.cases)

    def _limits(self) -> dict[str, int]:
        return {d.name: d.limit for d in self.source.dimensions.values() if d.limit is not None}

    def _inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(_info(value) for value in self.canonical.graph.inputs)

    def _padding(self) -> TensorInfo | None:
        return next((info for info in self._inputs() if info.name == self.source.padding), None)

    def _outputs(self) -> tuple[OutputInfo, ...]:
        infos = [_info(value) for value in self.canonical.graph.outputs]
        classes = self.source.output_classes
        return tuple(OutputInfo(i.name, i.dtype, i.dims, classes.get(i.name) or default_class(i.dtype)) for i in infos)


def _info(value: ir.Value) -> TensorInfo:
    if value.shape is None or value.dtype is None or not value.name:
        raise CaptureError(f"the graph lost the type of {value.name!r}; it has dtype {value.dtype}, shape {value.shape}")
    dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorInfo(value.name, str(value.dtype.numpy()), dims)
