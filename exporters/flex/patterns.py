"""Which pattern a mask follows: proposed from two of its rows, proven by comparing with the pattern's own formula."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from edgeattn.errors import SpecError
from edgeattn.patterns import Alignment, Causal, Dilated, Fixed, Full, GlobalLocal, Pattern, SlidingWindow, Strided

_FEW = 8
"""Constants of a modifier that are tried as parameters of a pattern."""


@dataclass(frozen=True, slots=True)
class Positions:
    """`edgeattn.patterns.Places` at chosen positions: `at_queries` (S,), `at_keys` (T,)."""

    at_queries: torch.Tensor
    at_keys: torch.Tensor
    given_prefix: torch.Tensor | None = None

    @property
    def keys(self) -> torch.Tensor:
        return self.at_keys[None, :]

    @property
    def prefix(self) -> torch.Tensor:
        assert self.given_prefix is not None
        return self.given_prefix[:, None, None, None]

    def queries(self, alignment: Alignment = "upper_left") -> torch.Tensor:
        assert alignment == "upper_left"
        return self.at_queries[:, None]

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Any, columns: Any) -> torch.Tensor:
        bits = torch.tensor([[[entry == "1" for entry in row] for row in head] for head in table])
        return bits[:, rows, columns]


def same(shown: torch.Tensor, pattern: Pattern, at: Positions) -> bool:
    """Whether a mask (B, H, S, T) is the pattern's, wherever it was looked at."""
    expected = pattern.sees(at)
    return bool((shown == expected).all())


def proposals(row: Callable[[int], torch.Tensor], length: int, constants: Sequence[int]) -> Iterator[Pattern]:
    """Patterns that may fit, the plainest first; `row(q)` is what query q sees, (T,) bool."""
    yield Full()
    yield Causal()
    middle = length // 2
    seen = row(middle).nonzero().flatten().tolist()
    if not seen or length < 2:
        return
    with contextlib.suppress(SpecError):
        last = length - 1
        left, right = middle - seen[0], seen[-1] - middle
        yield SlidingWindow(None if left == middle else left, None if middle + right == last else right)
    yield from _valid(_from_row(seen, middle))
    numbers = sorted({c for c in constants if 0 < c < length})[:_FEW]
    yield from _valid([partial(Strided, c) for c in numbers])
    yield from _valid([partial(Fixed, block, columns) for block in numbers for columns in (1, *numbers) if columns <= block])


def _from_row(seen: list[int], middle: int) -> list[Callable[[], Pattern]]:
    """Windows with gaps, and windows with global positions in front."""
    step = math.gcd(*(abs(key - middle) for key in seen)) or 1
    makers: list[Callable[[], Pattern]] = [lambda: Dilated((middle - seen[0]) // step, (seen[-1] - middle) // step, step)]
    if middle in seen:
        front = next((i for i, key in enumerate(seen) if i != key), len(seen))
        left, right = _run(seen, middle, -1), _run(seen, middle, 1)
        makers += [partial(GlobalLocal, left, right, front, causal) for causal in (True, False)]
    return makers


def _run(seen: list[int], start: int, direction: int) -> int:
    """How many positions next to `start` are seen without a gap."""
    known, length = set(seen), 0
    while start + direction * (length + 1) in known:
        length += 1
    return length


def _valid(makers: Sequence[Callable[[], Pattern]]) -> Iterator[Pattern]:
    for make in makers:
        with contextlib.suppress(SpecError):
            yield make()
