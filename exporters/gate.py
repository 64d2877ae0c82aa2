"""The gate of an export: a written flavour, run by its runtime, against everything PyTorch said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeattn.errors import RuntimeRunError
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.manifest import OutputInfo, ParityResult, TensorInfo
from edgeattn.parity import Comparison, compare_outputs, valid_positions, worst
from edgeattn.runtimes.base import LoadOptions, Runtime

SMALL = 512
"""Elements per dynamic input up to which the slow reference runtime takes part."""


def run_gate(
    path: Path,
    runtime: Runtime,
    device: str,
    cases: Sequence[ReferenceCase],
    outputs: Sequence[OutputInfo],
    padding: TensorInfo | None,
    progress: Callable[[str], None],
) -> tuple[ParityResult, str]:
    """The worst error per output over all cases, on whole outputs, and the first reason for a failure (or '').

    A runtime that refuses or fails to run the model has failed; the reason says so.
    """
    results: list[tuple[Comparison, ...]] = []
    try:
        with runtime.load(path, LoadOptions(device=device)) as session:
            for case in cases:
                progress(f"{runtime.name}:{device} {case.name}")
                got = session.run(case.inputs)
                mask = case.inputs.get(padding.name) if padding else None
                valid = {info.name: valid_positions(info, padding, mask) for info in outputs}
                results.append(compare_outputs(got, case.outputs, outputs, valid))
    except RuntimeRunError as error:
        return ParityResult(False, len(results), {}, {}), str(error)
    failed = [(case, row) for case, rows in zip(cases, results, strict=True) for row in rows if not row.passed]
    reason = f"{failed[0][1].output} at {failed[0][0].name}: {failed[0][1].reason}" if failed else ""
    return worst(results), reason


def small_cases(cases: Sequence[ReferenceCase]) -> list[ReferenceCase]:
    """Those that a numpy interpreter runs in reasonable time; at least one."""
    small = [case for case in cases if max(array.size for array in case.inputs.values()) <= SMALL]
    return small or list(cases[:1])
