"""Time several candidates in turn (A B A B ...), so that each sees the same weather of the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence


def interleave(candidates: Sequence[Callable[[], object]], rounds: int, warmup: int = 3) -> list[list[float]]:
    """Seconds of every candidate in every round. Warm-up rounds run in the same order and are not counted.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"need at least 1 round and no negative warm-up, got {rounds} and {warmup}")
    seconds: list[list[float]] = [[] for _ in candidates]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-warmup, rounds):
            for candidate, times in zip(candidates, seconds, strict=True):
                start = time.perf_counter()
                candidate()
                elapsed = time.perf_counter() - start
                if turn >= 0:
                    times.append(elapsed)
    finally:
        if collecting:
            gc.enable()
    return seconds
