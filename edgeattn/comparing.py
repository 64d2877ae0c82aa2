"""Bundles against bundles, runtimes against runtimes: parity, latency, and the ratio to the first with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeattn.benchmarking.benchmark import BenchReport, Progress, measure
from edgeattn.bundle import Bundle
from edgeattn.errors import UsageError
from edgeattn.loading import BundlePath


def compare(
    bundles: BundlePath | Bundle | Sequence[BundlePath | Bundle],
    runtimes: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Check, then time, every bundle on every runtime, all in the same rounds.

    The first row that passed parity is the baseline of every ratio. What failed parity gets no latency.

    Raises:
        BundleError, UsageError: as `edgeattn.bench`; also for no bundle at all.
    """
    listed = list(bundles) if isinstance(bundles, Sequence) and not isinstance(bundles, str) else [bundles]
    if not listed:
        raise UsageError("nothing to compare: give at least one bundle")
    return measure(listed, runtimes, sizes, repeats=repeats, warmup=warmup, threads=threads, progress=progress)
