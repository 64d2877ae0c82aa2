"""The gate of an export: a written flavour, run by its runtime, against everything PyTorch said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.buckets import cut
from edgeattn.decoding.evidence import readings
from edgeattn.decoding.opening import decoder_session
from edgeattn.errors import RuntimeRunError
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.golden import Golden
from edgeattn.manifest import OutputInfo, ParityResult, TensorInfo
from edgeattn.padding import valid_positions
from edgeattn.parity import Comparison, compare_outputs, worst
from edgeattn.runtimes.base import LoadOptions, Runtime

GOLDEN_BYTES = 16 << 20
"""Inputs that a bundle keeps of one choice of fixed sizes, or of a dynamic model."""
SMALL = 512
"""Elements per dynamic input up to which the slow reference runtime takes part."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst error per output over all cases, on whole outputs; where one failed, the reason and the smallest such case."""

    parity: ParityResult
    reason: str = ""
    failed: ReferenceCase | None = None


def run_gate(
    path: Path,
    runtime: Runtime,
    device: str,
    cases: Sequence[ReferenceCase],
    outputs: Sequence[OutputInfo],
    padding: TensorInfo | None,
    progress: Callable[[str], None],
    cache: str = "",
) -> Verdict:
    """Run every case; inputs may be padded beyond the case's sizes, and `cache` is the flavour's. A runtime that refuses or fails to run the model has failed; the reason says so."""
    results: list[tuple[Comparison, ...]] = []
    try:
        with runtime.load(path, LoadOptions(device=device, cache=cache)) as session:
            for case in cases:
                progress(f"{runtime.name}:{device} {case.name}")
                got = cut(session.run(case.inputs), outputs, case.sizes)
                feeds = cut(case.inputs, [padding] if padding else [], case.sizes)
                valid = {info.name: valid_positions(info, padding, feeds) for info in outputs}
                results.append(compare_outputs(got, case.outputs, outputs, valid))
    except RuntimeRunError as error:
        return Verdict(ParityResult(False, len(results), {}, {}), str(error))
    failed = [(case, row) for case, rows in zip(cases, results, strict=True) for row in rows if not row.passed]
    if not failed:
        return Verdict(worst(results))
    case, row = min(failed, key=lambda pair: elements(pair[0]))
    return Verdict(worst(results), f"{row.output} at {case.name}: {row.reason}", case)


def run_text(path: Path, runtime: Runtime, device: str, cache: str, text: Golden, capacity: int | None) -> str:
    """Read a text with the cache in every way; why PyTorch's whole pass does not bear one of them out, or nothing."""
    try:
        with decoder_session(runtime.load(path, LoadOptions(device=device, cache=cache)), capacity) as session:
            for reading in readings(session, text):
                if failed := [row for row in reading.comparisons if not row.passed]:
                    return f"{failed[0].output} of a text read {reading.name}: {failed[0].reason}"
    except RuntimeRunError as error:
        return str(error)
    return ""


def golden_cases(cases: Sequence[ReferenceCase]) -> list[ReferenceCase]:
    """Those that a bundle keeps: all while their inputs are small; of images and sounds the smallest, two at the least."""
    sizes = [sum(array.nbytes for array in case.inputs.values()) for case in cases]
    ranked = sorted(range(len(cases)), key=lambda index: sizes[index])
    kept = [
        index for place, index in enumerate(ranked) if place < 2 or sum(sizes[i] for i in ranked[: place + 1]) <= GOLDEN_BYTES
    ]
    return [cases[index] for index in sorted(kept)]


def small_cases(cases: Sequence[ReferenceCase]) -> list[ReferenceCase]:
    """Those that a numpy interpreter runs in reasonable time; at least one."""
    small = [case for case in cases if elements(case) <= SMALL]
    return small or list(cases[:1])


def elements(case: ReferenceCase) -> int:
    """Elements of the largest input."""
    return max(array.size for array in case.inputs.values())
