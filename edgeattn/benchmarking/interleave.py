"""Time several candidates in turn (A B A B ...), so that each sees the same weather of the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence


def interleave(
    candidates: Sequence[Callable[[], object]], rounds: int, warmup: int = 3, in_a_row: int = 1
) -> list[list[float]]:
    """Seconds of every candidate in every round. Warm-up rounds run in the same order and are not counted.

    A turn is `in_a_row` calls, and its mean counts: whoever comes back after the others' turns begins with cold caches, which a
    sequence of short steps does not do in use.

    Raises:
        ValueError: fewer than one round, fewer than one call in a turn, or a negative warm-up.
    """
    if rounds < 1 or warmup < 0 or in_a_row < 1:
        raise ValueError(f"need at least 1 round of 1 call and no negative warm-up, got {rounds} of {in_a_row} and {warmup}")
    seconds: list[list[float]] = [[] for _ in candidates]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-warmup, rounds):
            for candidate, times in zip(candidates, seconds, strict=True):
                start = time.perf_counter()
                for _ in range(in_a_row):
                    candidate()
                elapsed = time.perf_counter() - start
                if turn >= 0:
                    times.append(elapsed / in_a_row)
    finally:
        if collecting:
            gc.enable()
    return seconds
