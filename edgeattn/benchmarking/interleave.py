"""Time several candidates round by round, so that each sees the same weather of the machine."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence


def interleave(
    candidates: Sequence[Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    in_a_row: int = 1,
    between: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Seconds of every candidate in every round. Warm-up rounds are not counted.

    Each round has an order of its own, the same in every process: in one order for all, whoever follows the candidate that needs
    most memory would always begin with the coldest caches. A turn is `in_a_row` calls, and its mean counts: whoever comes back
    after the others' turns begins with cold caches, which a sequence of short steps does not do in use. `between` is called,
    untimed, before each counted round and after the last.

    Raises:
        ValueError: fewer than one round, fewer than one call in a turn, or a negative warm-up.
    """
    if rounds < 1 or warmup < 0 or in_a_row < 1:
        raise ValueError(f"need at least 1 round of 1 call and no negative warm-up, got {rounds} of {in_a_row} and {warmup}")
    seconds: list[list[float]] = [[] for _ in candidates]
    order = list(range(len(candidates)))
    draw = random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-warmup, rounds):
            if between and turn >= 0:
                between()
            draw.shuffle(order)
            for i in order:
                start = time.perf_counter()
                for _ in range(in_a_row):
                    candidates[i]()
                elapsed = time.perf_counter() - start
                if turn >= 0:
                    seconds[i].append(elapsed / in_a_row)
        if between:
            between()
    finally:
        if collecting:
            gc.enable()
    return seconds
