"""The flavours of a model at full precision: written, run by their runtimes, and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgeattn.bundle import weights_name
from edgeattn.exporters.choose import Choice, choose, choose_portable
from edgeattn.exporters.gate import run_gate, run_text, small_cases
from edgeattn.exporters.locating import Run, first_difference
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.fixed_sizes import check_fixed, fold_sizes
from edgeattn.exporters.probing import Prover, probe_size, square_only
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.signature import Signature
from edgeattn.exporters.stateful.flavour import stateful_flavour
from edgeattn.exporters.stateful.model import FORM, Stateful
from edgeattn.exporters.stateful.probe import probe_file
from edgeattn.golden import Golden
from edgeattn.manifest import FP32, PAST, SHARED, STATEFUL, Flavour, Probe, describe_sizes
from edgeattn.openvino_ir import SUFFIX
from edgeattn.probe import environment
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime

Progress = Callable[[str], None]
PORTABLE, CANONICAL = "portable", "canonical"


@dataclass(frozen=True, slots=True)
class Form:
    """The canonical model at one choice of sizes, its attention cores by site, the cases its flavours are held to, and of a
    decoder the text."""

    sizes: dict[str, int]
    model: ir.Model
    cores: dict[str, Core]
    cases: list[ReferenceCase]
    text: Golden | None = None


@dataclass(frozen=True, slots=True)
class FlavourWriter:
    """Writes into `work`, where the weights are already. `part` names the model in a bundle of several."""

    signature: Signature
    targets: list[tuple[Runtime, str]]
    forced: str | None
    work: Path
    prover: Prover
    say: Progress
    part: str = ""

    def write(self, form: Form, probes: dict[str, Probe]) -> list[FlavourReport]:
        """One for each target, the portable and the canonical one, proven; adds the probes of what they use to `probes`."""
        rows = [self._target(runtime, device, form) for runtime, device in self.targets]
        rows += [self._portable(form), self._canonical(form)]
        rows = [self._located(row, rows) for row in rows]
        return [self._with_probes(row, form.cores, probes) for row in rows]

    def _target(self, runtime: Runtime, device: str, form: Form) -> FlavourReport:
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

    def _stateful(self, form: Form, runtime: Runtime, device: str) -> tuple[FlavourReport | None, list[str]]:
        """The flavour that keeps its cache itself; where there might be one and is none, the reason."""
        if self.forced is not None or form.sizes or device not in runtime.stateful or not self.signature.past:
            return None, []
        target = f"{runtime.name}:{device}"
        path = self.work / f"{target.replace(':', '-')}{SUFFIX}"
        model = Stateful(
            form.model, self.signature.inputs, self.signature.outputs, self.signature.limits, self.work / weights_name(FP32)
        )

        def proven(domains: dict[str, int], choices: dict[str, Choice]) -> FlavourReport:
            return self._proven(path.name, domains, STATEFUL, target, choices, runtime, device, form)

        found = stateful_flavour(model, path, self.prover.folder, runtime, device, proven)
        return (None, [f"not {FORM.name}: {found}"]) if isinstance(found, str) else (found, [])

    def _choices(self, cores: Mapping[str, Core], runtime: Runtime, device: str) -> dict[str, Choice]:
        return {name: choose(core, runtime, device, self.prover, self.forced) for name, core in cores.items()}

    def _portable(self, form: Form) -> FlavourReport:
        """Standard operators of opset 18 only: for any runtime, here gated on the first target's."""
        choices = {name: choose_portable(core, self.targets, self.prover) for name, core in form.cores.items()}
        runtime, device = self.targets[0]
        return self._flavour(PORTABLE, self._lowered(form, choices), choices, runtime, device, form)

    def _canonical(self, form: Form) -> FlavourReport:
        """One node per core, its body a function; gated on the reference runtime at the sizes numpy can manage."""
        runtime = registry.get("reference")
        return self._flavour(CANONICAL, form.model, {}, runtime, "cpu", replace(form, cases=small_cases(form.cases), text=None))

    def _lowered(self, form: Form, choices: Mapping[str, Choice], functions: bool = False) -> ir.Model:
        lowerings = {name: choice.lowering for name, choice in choices.items()}
        model = lower(form.model, lowerings, self.signature.limits, functions=functions)
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
        form: Form,
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
        form: Form,
    ) -> FlavourReport:
        """The flavour in `file`, run through its gate."""
        verdict = run_gate(
            self.work / file,
            runtime,
            device,
            form.cases,
            self.signature.outputs,
            self.signature.padding,
            lambda text: self.say(f"parity on {text}"),
            cache,
        )
        if form.text is not None and verdict.parity.passed:
            self.say(f"parity on {runtime.name}:{device}, a text with its cache")
            reason = run_text(self.work / file, runtime, device, cache, form.text, self.signature.limits.get(PAST))
            verdict = replace(verdict, reason=reason, parity=replace(verdict.parity, passed=not reason))
        flavour = Flavour(
            target=target,
            precision=FP32,
            file=file,
            domains=domains,
            lowerings={name: choice.lowering.name for name, choice in choices.items()},
            reasons={name: choice.reason for name, choice in choices.items()},
            parity=verdict.parity,
            environment={"runtime": runtime.name, "device": device, **environment(runtime, device)},
            sizes=form.sizes,
            cache=cache,
        )
        weights = self.work / weights_name(FP32)
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

    def _whole_cache(self, choices: Mapping[str, Choice]) -> bool:
        """Whether the forms chosen update the model's whole cache, or nothing of it: past and present share buffers or do not."""
        updating = sum(choice.lowering.updates_cache for choice in choices.values())
        return updating == 0 or 2 * updating == len(self.signature.past)
