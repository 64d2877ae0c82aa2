"""The parity gate: run every golden case of a bundle on every target and compare with PyTorch's outputs. No torch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgeattn import parity
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.decoding.evidence import read_evidence, readings
from edgeattn.decoding.opening import decoder_session
from edgeattn.decoding.session import DecoderSession
from edgeattn.errors import EdgeAttnError, RuntimeMissingError, UsageError
from edgeattn.exams import Budget, Exam, read_exam
from edgeattn.golden import Golden, compare_case, read_case
from edgeattn.loading import CANONICAL, PORTABLE, BundlePath, BundleSession, open_session, pick_flavours
from edgeattn.manifest import PAST, Flavour, Manifest, TensorInfo
from edgeattn.parity import Comparison
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session, library_paths

Status = Literal["passed", "failed", "error", "missing", "skipped"]
"""`failed`: values differ. `error`: the runtime refused the model or a case. `missing`: a runtime or device that was
asked for is not here. `skipped`: one that nobody asked for is not here."""


@dataclass(frozen=True, slots=True)
class CaseCheck:
    """One golden case on one target; `seconds` is the wall time of the run, for orientation only."""

    name: str
    sizes: dict[str, int]
    comparisons: tuple[Comparison, ...]
    seconds: float
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    """Of an exam, instead of comparisons: metric -> value (see `edgeattn.exams`)."""

    @property
    def passed(self) -> bool:
        """Every output compared and within tolerance, or every bound kept."""
        return not self.reason and (bool(self.scores) or parity.passed([self.comparisons]))


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """All cases on one runtime and device. `flavour` is what was loaded, `effective` what the runtime really used."""

    target: str
    status: Status
    flavour: str = ""
    precision: str = ""
    effective: str = ""
    cases: tuple[CaseCheck, ...] = ()
    reason: str = ""
    fixed: tuple[dict[str, int], ...] = ()
    """The sizes that the flavour is written for; none where it takes any."""
    part: str = ""
    """Which of the bundle's models it is; empty for the one that the bundle is about."""

    @property
    def label(self) -> str:
        """`onnxruntime:cpu`, behind the part where it is one."""
        return f"{self.part} {self.target}".lstrip()

    @property
    def passed(self) -> bool:
        """The runtime ran every case and every output was within tolerance."""
        return self.status == "passed"

    def worst(self, field: str = "max_abs") -> dict[str, float]:
        """The largest `field` of each output over all cases."""
        found: dict[str, float] = {}
        for comparison in (c for case in self.cases for c in case.comparisons):
            value = getattr(comparison, field)
            if math.isfinite(value):
                found[comparison.output] = max(found.get(comparison.output, value), value)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        cases = [
            {
                "name": case.name,
                "sizes": case.sizes,
                "passed": case.passed,
                "seconds": case.seconds,
                "reason": case.reason,
                **({"scores": case.scores} if case.scores else {}),
                "outputs": [comparison.to_dict() for comparison in case.comparisons],
            }
            for case in self.cases
        ]
        own = {
            name: getattr(self, name) for name in ("part", "target", "status", "flavour", "precision", "effective", "reason")
        }
        return {**own, "passed": self.passed, "fixed": list(self.fixed), "cases": cases}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The gate's answer for a bundle."""

    bundle: str
    targets: tuple[TargetCheck, ...]

    @property
    def passed(self) -> bool:
        """At least one target was compared, and nothing failed or was missing."""
        statuses = {target.status for target in self.targets}
        return "passed" in statuses and statuses <= {"passed", "skipped"}

    @property
    def exit_code(self) -> int:
        """0 passed, 1 values differ or a runtime refused the model, 3 a runtime or device is missing."""
        if self.passed:
            return 0
        return 1 if any(target.status in ("failed", "error") for target in self.targets) else 3

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"bundle": self.bundle, "passed": self.passed, "targets": [target.to_dict() for target in self.targets]}


def check(
    bundle: BundlePath | Bundle,
    runtimes: Sequence[str] | None = None,
    *,
    threads: int | None = None,
    custom_ops: Iterable[str | os.PathLike[str]] = (),
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Run every golden case on each of `runtimes` (`onnxruntime:cpu`, ...) and compare with PyTorch's outputs, the cases of
    each part of the bundle as well.

    `runtimes` None means every target the bundle has a flavour for; one of those whose runtime is not installed here is
    skipped and said so. A target that fails does not stop the others. `custom_ops` are native libraries as in
    `edgeattn.load`, for those of the runtimes that take them.

    Raises:
        BundleError: the bundle is missing, truncated, edited or foreign.
        UsageError: an unknown runtime or device name, a library that is not there, or a bundle without a golden case.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    for target in runtimes or ():
        registry.parse_target(target)  # a misspelt name is an error before any work
    models = {**opened.parts, "": opened}
    if not all(model.manifest.golden for model in models.values()):
        raise UsageError(f"{opened.path} holds no golden case, so nothing can be compared; export the model again")
    targets = runtimes or default_targets(opened.manifest)
    libraries = _libraries(custom_ops, targets)
    checked = []
    for part, model in models.items():
        cases = [read_case(model, case) for case in model.manifest.golden]
        text = read_evidence(model)
        for target in targets:
            if progress:
                progress(" ".join([f"checking {opened.path.name}", *filter(None, [part]), f"on {target}, {len(cases)} cases"]))
            for precision in model.manifest.precisions(_own(target)) or (None,):
                found = _check_target(model, target, precision, cases, text, threads, libraries, asked=bool(runtimes))
                checked.append(replace(found, part=part))
    return CheckReport(str(opened.path), tuple(checked))


def default_targets(manifest: Manifest) -> list[str]:
    """Every runtime and device the bundle has a flavour of its own for; with none, `onnxruntime:cpu`."""
    own = [flavour.target for flavour in manifest.flavours if flavour.target not in (CANONICAL, PORTABLE)]
    return list(dict.fromkeys(own)) or ["onnxruntime:cpu"]


def target_options(
    runtime: Runtime, device: str, threads: int | None, libraries: tuple[str, ...], spin: bool = True
) -> LoadOptions:
    """Options for one of several targets: native libraries go to a runtime that takes them."""
    return LoadOptions(device, threads, spin, custom_ops=libraries if "custom_ops" in runtime.takes else ())


def _libraries(custom_ops: Iterable[str | os.PathLike[str]], targets: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths, once one of the targets has a use for them."""
    libraries = library_paths(custom_ops)
    if libraries and not any("custom_ops" in _runtime(target)[0].takes for target in targets):
        raise UsageError(f"{libraries[0]}: none of {', '.join(targets)} takes native libraries; add -r onnxruntime:cpu")
    return libraries


def _own(target: str) -> str:
    """`runtime:device` in full."""
    return target if ":" in target else f"{target}:cpu"


def _check_target(
    bundle: Bundle,
    target: str,
    precision: str | None,
    cases: Sequence[Golden],
    text: Golden | None,
    threads: int | None,
    libraries: tuple[str, ...],
    asked: bool,
) -> TargetCheck:
    flavour = None
    try:
        runtime, device = _runtime(target)
        target = f"{runtime.name}:{device}"
        flavours = pick_flavours(bundle, runtime, device, precision=precision)
        flavour = flavours[0]
        with open_session(bundle, flavours, runtime, target_options(runtime, device, threads, libraries)) as session:
            if flavour.quantized is not None:
                return _examined(target, flavour, session, read_exam(bundle))
            return _run_cases(target, flavour, session, cases, bundle.manifest, text)
    except RuntimeMissingError as error:
        status: Status = "missing" if asked else "skipped"
        reason = str(error)
    except EdgeAttnError as error:
        status, reason = "error", str(error)
    return TargetCheck(target, status, flavour.target if flavour else "", flavour.precision if flavour else "", reason=reason)


def _runtime(target: str) -> tuple[Runtime, str]:
    """As `parse_target`; a runtime that the bundle was made for and that nobody here knows is one that is missing."""
    try:
        return registry.parse_target(target)
    except UsageError as error:
        raise RuntimeMissingError(f"{error}; if {target} is a plug-in's, install that plug-in") from error


def _run_cases(
    target: str, flavour: Flavour, session: BundleSession, cases: Sequence[Golden], manifest: Manifest, text: Golden | None
) -> TargetCheck:
    padding = padding_input(manifest)
    results = tuple(_run_case(session, golden, manifest, padding) for golden in cases)
    if text is not None and flavour.target != CANONICAL:  # its interpreter takes minutes for a text
        results += tuple(_read_text(decoder_session(session, manifest.limits.get(PAST)), text))
    failed = [case for case in results if not case.passed]
    status: Status = "passed" if results and not failed else "error" if any(case.reason for case in failed) else "failed"
    reason = f"{len(failed)} of {len(results)} cases failed" if failed else ""
    if failed and failed[0].reason:
        reason += f": {failed[0].reason}"
    return TargetCheck(
        target, status, flavour.target, flavour.precision, session.effective.summary(), results, reason, session.buckets
    )


def _examined(target: str, flavour: Flavour, session: BundleSession, exam: Exam | None) -> TargetCheck:
    """A flavour in smaller numbers is held to its bounds, not to tolerances."""
    assert flavour.quantized is not None
    start = time.perf_counter()
    scores = exam.score(session, bool(flavour.quantized.token)) if exam else {}
    budgets = [Budget(metric, bound) for metric, bound in flavour.quantized.bounds.items()]
    missed = [f"{budget}, got {scores.get(budget.metric, float('nan')):.6g}" for budget in budgets if not budget.holds(scores)]
    reason = "; ".join(missed) if budgets else "it has no bounds to be held to"
    sizes = {"samples": exam.samples if exam else 0}
    case = CaseCheck("exam", sizes, (), time.perf_counter() - start, reason, scores)
    status: Status = "failed" if reason else "passed"
    return TargetCheck(target, status, flavour.target, flavour.precision, session.effective.summary(), (case,), reason)


def _run_case(session: Session, golden: Golden, manifest: Manifest, padding: TensorInfo | None) -> CaseCheck:
    start = time.perf_counter()
    try:
        got = session.run(golden.inputs)
    except EdgeAttnError as error:
        return CaseCheck(golden.name, golden.sizes, (), time.perf_counter() - start, str(error))
    seconds = time.perf_counter() - start
    return CaseCheck(golden.name, golden.sizes, compare_case(golden, got, manifest.outputs, padding), seconds)


def _read_text(session: DecoderSession, text: Golden) -> Iterator[CaseCheck]:
    """The text of a decoder, read with its cache in every way."""
    try:
        for reading in readings(session, text):
            yield CaseCheck(f"text {reading.name}", text.sizes, reading.comparisons, reading.seconds)
    except EdgeAttnError as error:
        yield CaseCheck("text", text.sizes, (), 0.0, str(error))


def padding_input(manifest: Manifest) -> TensorInfo | None:
    """The input that marks padding, if the manifest names one."""
    return next((info for info in manifest.inputs if info.name == manifest.padding), None)
