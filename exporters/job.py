"""One export on its way to disk: every flavour written, run by its runtime, and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

import edgeattn
from edgeattn.bundle import MANIFEST, part_manifest, seal, weights_name
from edgeattn.errors import CaptureError
from edgeattn.exporters.choose import Choice, choose, choose_portable
from edgeattn.exporters.decoding_evidence import decoding_evidence
from edgeattn.exporters.gate import golden_cases, run_gate, run_text, small_cases
from edgeattn.exporters.locating import Run, first_difference
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.fixed_sizes import check_fixed, fix_sizes, fold_sizes
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.probing import Prover, probe_size, square_only
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.stateful.flavour import stateful_flavour
from edgeattn.exporters.stateful.model import FORM, Stateful
from edgeattn.exporters.stateful.probe import probe_file
from edgeattn.exporters.static_shapes import Bucket, add_smaller_cases
from edgeattn.golden import Golden, write_case
from edgeattn.manifest import (
    PAST,
    SHARED,
    STATEFUL,
    Flavour,
    GoldenCase,
    Manifest,
    OutputInfo,
    Probe,
    TensorInfo,
    describe_sizes,
)
from edgeattn.openvino_ir import SUFFIX
from edgeattn.probe import environment
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime
from edgeattn.tolerance import default_class

Progress = Callable[[str], None]
PRECISION = "fp32"
PORTABLE, CANONICAL = "portable", "canonical"


@dataclass(frozen=True, slots=True)
class _Form:
    """The canonical model at one choice of sizes, its attention cores by site, the cases its flavours are held to, and of a
    decoder the text."""

    sizes: dict[str, int]
    model: ir.Model
    cores: dict[str, Core]
    cases: list[ReferenceCase]
    text: Golden | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One export on its way: everything known before the first file is written, but the weights, which are there already.

    `part` names the model in a bundle of several; empty for the one that the bundle is about, which is written last.
    """

    source: Source
    canonical: ir.Model
    buckets: list[Bucket]
    targets: list[tuple[Runtime, str]]
    forced: str | None
    work: Path
    prover: Prover
    say: Progress
    part: str = ""

    def write(self) -> tuple[list[FlavourReport], Manifest]:
        """Write every file, run every gate, seal."""
        sites = find_sites(self.canonical)
        missed = unraised(self.canonical)
        pads = self._pads()
        text = self._text()
        rows: list[FlavourReport] = []
        probes: dict[str, Probe] = {}
        for bucket in self.buckets:
            rows += self._flavours(replace(self._form(bucket), text=text), probes)
        order = list(dict.fromkeys(row.flavour.target for row in rows))
        rows.sort(key=lambda row: order.index(row.flavour.target))
        manifest = Manifest(
            edgeattn=edgeattn.__version__,
            source={"kind": self.source.kind, "name": self.source.name, "torch": torch.__version__},
            inputs=self._inputs(),
            outputs=self._outputs(),
            sites=tuple(site.record() for site in sites),
            unraised=tuple(missed),
            flavours=tuple(row.flavour for row in rows),
            golden=self._golden(),
            decoding=write_case(self.work, text.name, text.sizes, text.inputs, text.outputs) if text else None,
            probes=tuple(probes.values()),
            files={},
            padding=self.source.padding,
            limits=self._limits(),
            tokenizer=self._tokenizer(),
            preprocessing=self.source.preprocessing,
            provenance=self.source.provenance,
            pads=pads,
            parts=tuple(self.source.parts),
        )
        for name, file in self.source.files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_bytes(file if isinstance(file, bytes) else file.read_bytes())
        return rows, seal(self.work, manifest, part_manifest(self.part) if self.part else MANIFEST)

    def _form(self, bucket: Bucket) -> _Form:
        """The model as captured, or a copy of it with literal sizes."""
        limits, sizes = self._limits(), self._named(bucket.sizes)
        model = fix_sizes(self.canonical, sizes) if sizes else self.canonical
        cores = {site.name: site.fixed_core(limits) if sizes else site.core(limits) for site in find_sites(model)}
        cases = bucket.padded(self._inputs(), self._padding()) if sizes else bucket.cases
        return _Form(sizes, model, cores, cases)

    def _named(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Without those that the graph computes from others."""
        symbols = {dim for info in self._inputs() for dim in info.dims}
        return {name: size for name, size in sizes.items() if name in self.source.dimensions or name in symbols}

    def _flavours(self, form: _Form, probes: dict[str, Probe]) -> list[FlavourReport]:
        """One for each target, the portable and the canonical one, proven; adds the probes of what they use to `probes`."""
        rows = [self._target(runtime, device, form) for runtime, device in self.targets]
        rows += [self._portable(form), self._canonical(form)]
        rows = [self._located(row, rows) for row in rows]
        return [self._with_probes(row, form.cores, probes) for row in rows]

    def _target(self, runtime: Runtime, device: str, form: _Form) -> FlavourReport:
        self.say(" ".join([f"choosing lowerings for {runtime.name}:{device}", describe_sizes(form.sizes)]).rstrip())
        row, refused = self._stateful(form, runtime, device)
        if row is not None:
            return row
        choices = self._choices(form.cores, runtime, device)
        if not self._whole_cache(choices):
            choices = self._choices({name: replace(core, cached=False) for name, core in form.cores.items()}, runtime, device)
        choices = {name: replace(choice, reason="\n".join([choice.reason, *refused])) for name, choice in choices.items()}
        model = self._lowered(form, choices, functions=runtime.functions)
        return self._flavour(f"{runtime.name}:{device}", model, choices, runtime, device, form)

    def _stateful(self, form: _Form, runtime: Runtime, device: str) -> tuple[FlavourReport | None, list[str]]:
        """The flavour that keeps its cache itself; where there might be one and is none, the reason."""
        if self.forced is not None or form.sizes or device not in runtime.stateful or not self._past():
            return None, []
        target = f"{runtime.name}:{device}"
        path = self.work / f"{target.replace(':', '-')}{SUFFIX}"
        model = Stateful(form.model, self._inputs(), self._outputs(), self._limits(), self.work / weights_name(PRECISION))

        def proven(domains: dict[str, int], choices: dict[str, Choice]) -> FlavourReport:
            return self._proven(path.name, domains, STATEFUL, target, choices, runtime, device, form)

        found = stateful_flavour(model, path, self.prover.folder, runtime, device, proven)
        return (None, [f"not {FORM.name}: {found}"]) if isinstance(found, str) else (found, [])

    def _choices(self, cores: Mapping[str, Core], runtime: Runtime, device: str) -> dict[str, Choice]:
        return {name: choose(core, runtime, device, self.prover, self.forced) for name, core in cores.items()}

    def _portable(self, form: _Form) -> FlavourReport:
        """Standard operators of opset 18 only: for any runtime, here gated on the first target's."""
        choices = {name: choose_portable(core, self.targets, self.prover) for name, core in form.cores.items()}
        runtime, device = self.targets[0]
        return self._flavour(PORTABLE, self._lowered(form, choices), choices, runtime, device, form)

    def _canonical(self, form: _Form) -> FlavourReport:
        """One node per core, its body a function; gated on the reference runtime at the sizes numpy can manage."""
        runtime = registry.get("reference")
        return self._flavour(CANONICAL, form.model, {}, runtime, "cpu", replace(form, cases=small_cases(form.cases), text=None))

    def _lowered(self, form: _Form, choices: Mapping[str, Choice], functions: bool = False) -> ir.Model:
        lowerings = {name: choice.lowering for name, choice in choices.items()}
        model = lower(form.model, lowerings, self._limits(), functions=functions)
        if form.sizes:
            fold_sizes(model)
            check_fixed(model)
        return model

    def _flavour(
        self,
        target: str,
        model: ir.Model,
        choices: Mapping[str, Choice],
        runtime: Runtime,
        device: str,
        form: _Form,
    ) -> FlavourReport:
        sizes = (f"{name}{size}" for name, size in form.sizes.items())
        file = "-".join([*filter(None, [self.part]), target.replace(":", "-"), *sizes]) + ".onnx"
        ir.save(model, self.work / file)
        cache = SHARED if any(choice.lowering.updates_cache for choice in choices.values()) else ""
        return self._proven(file, dict(model.graph.opset_imports), cache, target, choices, runtime, device, form)

    def _proven(
        self,
        file: str,
        domains: dict[str, int],
        cache: str,
        target: str,
        choices: Mapping[str, Choice],
        runtime: Runtime,
        device: str,
        form: _Form,
    ) -> FlavourReport:
        """The flavour in `file`, run through its gate."""
        verdict = run_gate(
            self.work / file,
            runtime,
            device,
            form.cases,
            self._outputs(),
            self._padding(),
            lambda text: self.say(f"parity on {text}"),
            cache,
        )
        if form.text is not None and verdict.parity.passed:
            self.say(f"parity on {runtime.name}:{device}, a text with its cache")
            reason = run_text(self.work / file, runtime, device, cache, form.text, self._limits().get(PAST))
            verdict = replace(verdict, reason=reason, parity=replace(verdict.parity, passed=not reason))
        flavour = Flavour(
            target=target,
            precision=PRECISION,
            file=file,
            domains=domains,
            lowerings={name: choice.lowering.name for name, choice in choices.items()},
            reasons={name: choice.reason for name, choice in choices.items()},
            parity=verdict.parity,
            environment={"runtime": runtime.name, "device": device, **environment(runtime, device)},
            sizes=form.sizes,
            cache=cache,
        )
        weights = self.work / weights_name(PRECISION)
        size = (self.work / file).stat().st_size + (weights.stat().st_size if weights.exists() else 0)
        return FlavourReport(flavour, size, verdict.reason, verdict.failed)

    def _located(self, row: FlavourReport, rows: list[FlavourReport]) -> FlavourReport:
        """With the first node that differs, where a form that passed is ONNX too and can be read beside it."""
        trusted = next((other for other in rows if not other.failure and other.flavour.file.endswith(".onnx")), None)
        if row.failed is None or trusted is None:
            return row
        self.say(f"locating where {row.flavour.target} differs")
        place = first_difference(self._run_of(row), self._run_of(trusted), row.failed.inputs)
        return replace(row, failure=f"{row.failure}; {place}")

    def _run_of(self, row: FlavourReport) -> Run:
        flavour = row.flavour
        runtime = registry.get(flavour.environment["runtime"])
        return Run(self.work / flavour.file, runtime, flavour.environment["device"], flavour.cache)

    def _with_probes(self, row: FlavourReport, cores: Mapping[str, Core], probes: dict[str, Probe]) -> FlavourReport:
        """With a probe per form used, so that another device can prove it again."""
        files = []
        for name, lowering in row.flavour.lowerings.items():
            path, probe = self._probe(lowering, cores[name])
            files.append(probe.file)
            probes.setdefault(probe.file, probe)
            (self.work / "probes").mkdir(exist_ok=True)
            for part in path.parent.glob(f"{path.stem}.*"):
                shutil.copyfile(part, self.work / "probes" / part.name)
        return replace(row, flavour=replace(row.flavour, probes=tuple(sorted(set(files)))))

    def _probe(self, lowering: str, core: Core) -> tuple[Path, Probe]:
        if lowering == FORM.name:
            path = probe_file(core, self.prover.folder)
            return path, Probe(f"probes/{path.name}", lowering, core.spec, cached=True)
        form = get(lowering)
        path = self.prover.model(form, core)
        square, size = square_only(form, core), probe_size(core) or ()
        return path, Probe(f"probes/{path.name}", lowering, core.spec, square, form.updates_cache, size)

    def _pads(self) -> tuple[str, ...]:
        """The dimensions in which feeds may be padded up to fixed sizes; adds the cases that prove it."""
        if not any(bucket.sizes for bucket in self.buckets):
            return ()
        pads, reason = add_smaller_cases(self.source, self.buckets, self._inputs(), self._outputs())
        if reason:
            self.say(f"feeds must have exactly the sizes of a bucket: {reason}")
        return pads

    def _text(self) -> Golden | None:
        """Of a decoder with a cache, what PyTorch says without it; none for fixed sizes, in which no cache grows."""
        if self.source.whole_pass is None or any(bucket.sizes for bucket in self.buckets):
            return None
        self.say(f"reading a text with {self.source.reference}, without a cache")
        return decoding_evidence(self.source.whole_pass, self._limits().get(PAST))

    def _golden(self) -> tuple[GoldenCase, ...]:
        cases = [case for bucket in self.buckets for case in golden_cases(bucket.cases)]
        folder = f"{self.part}/" if self.part else ""
        return tuple(write_case(self.work, folder + case.name, case.sizes, case.inputs, case.outputs) for case in cases)

    def _whole_cache(self, choices: Mapping[str, Choice]) -> bool:
        """Whether the forms chosen update the model's whole cache, or nothing of it: past and present share buffers or do not."""
        updating = sum(choice.lowering.updates_cache for choice in choices.values())
        return updating == 0 or 2 * updating == len(self._past())

    def _past(self) -> list[TensorInfo]:
        """The inputs that are the cache."""
        return [info for info in self._inputs() if PAST in info.dims[2:3]]

    def _tokenizer(self) -> dict[str, Any]:
        """The tokenizer's settings; text is cut where the longest fixed size ends."""
        settings, padding = self.source.tokenizer, self._padding()
        longest = max((bucket.sizes.get(str(padding.dims[-1]), 0) for bucket in self.buckets), default=0) if padding else 0
        if not settings.get("max_length") or not longest:
            return settings
        return {**settings, "max_length": min(settings["max_length"], longest)}

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
