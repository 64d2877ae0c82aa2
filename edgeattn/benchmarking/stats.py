"""What a set of timings says, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["faster", "slower", "inconclusive"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Summary:
    """Milliseconds."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median time over the baseline's median time, with the interval that holds it 95 times in 100. Below 1 is faster."""

    value: float
    low: float
    high: float
    verdict: Verdict


def summarize(seconds: Sequence[float]) -> Summary:
    """Median and tails of timings in seconds. Raises ValueError for an empty sequence."""
    if not len(seconds):
        raise ValueError("no timing to summarize")
    median, p90, p99 = np.percentile(np.asarray(seconds) * 1e3, (50, 90, 99))
    return Summary(float(median), float(p90), float(p99), len(seconds))


def compare_timings(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """The ratio of medians of two candidates timed in the same rounds.

    Rounds are resampled together (a paired bootstrap), so that a slow spell of the machine, which hits both candidates
    of a round, does not pass for a difference.

    Raises:
        ValueError: the two do not have one timing per round each.
    """
    ours, theirs = np.asarray(seconds, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or not ours.size:
        raise ValueError(f"timings must be of the same rounds, got {ours.shape} and {theirs.shape}")
    rounds = np.random.default_rng(0).integers(0, ours.size, (_RESAMPLES, ours.size))
    ratios = np.median(ours[rounds], axis=1) / np.median(theirs[rounds], axis=1)
    low, high = (float(x) for x in np.percentile(ratios, (2.5, 97.5)))
    return Ratio(float(np.median(ours) / np.median(theirs)), low, high, judged(low, high))


def judged(low: float, high: float) -> Verdict:
    """What an interval of a ratio says."""
    return "faster" if high < 1 else "slower" if low > 1 else "inconclusive"
