"""Whether the cores of a benchmark share a cache, round by round.

A host may move the processors of a virtual machine at any time: onto cores that share their last cache, or onto cores that do not.
Near ones hand work to each other sooner; far ones have more cache and more bandwidth between them. Two candidates can change places
with that, and nobody tells the guest. What tells is the time that a byte takes from one core to the other and back.
"""

from __future__ import annotations

import math
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from types import TracebackType
from typing import Self

from edgeattn.runtimes.base import default_threads

APART = 1.7
"""Times the quickest round trip from which cores count as far from each other."""
FEWEST = 5
"""Rounds below which nothing is said about them."""
_PARTS, _TRIPS = 10, 100


class Cores:
    """Two processes that pass a byte to and fro while `look` runs, and sleep while it does not."""

    def __init__(self) -> None:
        self._looks: list[float] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "byte"
        path.write_bytes(bytes(1))
        self._other = subprocess.Popen([sys.executable, __file__, str(path)], stdin=subprocess.PIPE)
        self._file = path.open("r+b")
        self._shared = mmap.mmap(self._file.fileno(), 1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._other.communicate()  # the end of its input is its end
        self._shared.close()
        self._file.close()
        self._folder.cleanup()

    def look(self) -> None:
        """Measure once, in some milliseconds. On a single core there is nothing to measure."""
        self._looks.append(median(self._trip() for _ in range(_PARTS)) if self._begun() else math.nan)

    def rounds(self) -> list[float]:
        """Seconds of a round trip in each round since the last call; NaN where the cores moved between two looks."""
        looks, self._looks = self._looks, []
        return [mean(pair) if max(pair) < APART * min(pair) else math.nan for pair in pairwise(looks)]

    def _begun(self) -> bool:
        if default_threads() < 2:
            return False
        assert self._other.stdin is not None
        self._other.stdin.write(b"\n")
        self._other.stdin.flush()
        return True

    def _trip(self) -> float:
        shared = self._shared
        start = time.perf_counter()
        for _ in range(_TRIPS):
            shared[0] = 1
            while shared[0]:
                pass
        return (time.perf_counter() - start) / _TRIPS


def by_distance(rounds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, list[int]]]:
    """Which rounds of each case had their cores near each other, and far from each other, by a title that says so.

    Near is the quickest round trip of all cases; where all are alike, the title says no more than what they took. Only cases with
    enough rounds are in it; all rounds of all cases where none has.
    """
    quickest = min((trip for values in rounds.values() for trip in values if not math.isnan(trip)), default=math.nan)
    sides = {
        " near each other": {case: [i for i, t in enumerate(v) if t < APART * quickest] for case, v in rounds.items()},
        " far from each other": {case: [i for i, t in enumerate(v) if t >= APART * quickest] for case, v in rounds.items()},
    }
    enough = {side: {case: v for case, v in cases.items() if len(v) >= FEWEST} for side, cases in sides.items()}
    enough = {side: cases for side, cases in enough.items() if cases}
    found = {}
    for side, cases in enough.items():
        typical = median(rounds[case][i] for case, places in cases.items() for i in places)
        found[f"cores{side if len(enough) > 1 else ''}, {1e9 * typical:.0f} ns there and back"] = cases
    return found or {"all rounds": {case: list(range(len(values))) for case, values in rounds.items()}}


def _answer(path: Path) -> None:
    """The other process: clear the byte each time it is set, as often as one look sets it, for each line of input."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1) as shared:
        for _ in sys.stdin.buffer:
            for _ in range(_PARTS * _TRIPS):
                while not shared[0]:
                    pass
                shared[0] = 0


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
