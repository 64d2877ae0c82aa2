"""Windows in O(S W): queries in blocks, each against the keys that its window reaches.

With a causal window of W keys a dense form does S T work for S W results. Here a block of queries meets only the keys
from the first query's first to the last query's last, so time and memory grow linearly with the length (cf. Longformer,
Beltagy et al. 2020, section 3.1, and the local attention of BigBird, Zaheer et al. 2020, appendix D). A window with gaps
is a window without gaps among the positions that leave the same remainder, so a block there takes every n-th query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.tiles import Near, Tiles, attend, blocks, constant, fewest, held, steps
from edgeattn.patterns import Alignment
from edgeattn.spec import AttentionSpec, Dilated, SlidingWindow

BLOCK = 64
"""Queries of a block, half of it for short windows and twice for wide ones: smaller blocks gather each key more often,
larger ones meet more keys that most of their queries do not see."""
_ALIGNED = 16
"""The keys of a block are a multiple of it: the width of a vector register."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a block meets: `size` queries, and `width` keys of which the last is `right` after the last query."""

    left: int
    right: int
    size: int
    width: int

    @classmethod
    def of(cls, left: int, right: int) -> Reach:
        span = left + right
        size = BLOCK // 2 if span < BLOCK else BLOCK if span <= 8 * BLOCK else 2 * BLOCK
        return cls(left, right, size, -(-(size + left + right) // _ALIGNED) * _ALIGNED)

    @property
    def columns(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Positions of the keys, from the block's first query."""
        return np.arange(self.width) + self.size + self.right - self.width

    def near(self, b: Builder) -> Near:
        """(size, width), the same in every block."""
        places = _InBlock(self.columns[None, :], np.arange(self.size)[:, None])
        shown = constant(b, np.asarray(SlidingWindow(self.left, self.right).sees(places)))
        return lambda rows, columns: shown


@dataclass(frozen=True, slots=True)
class _InBlock:
    """`edgeattn.patterns.Places` in numpy, counted from a block's first query."""

    keys: Any
    rows: Any

    @property
    def prefix(self) -> Any:
        raise NotImplementedError

    def queries(self, alignment: Alignment = "upper_left") -> Any:
        return self.rows

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Any, columns: Any) -> Any:
        raise NotImplementedError


def refusal(core: Core) -> str | None:
    """Why no form in tiles can express `core`, whatever its pattern; None where they can."""
    spec = core.spec
    if reason := beyond_softmax(replace(spec, sink=False)):
        return reason
    if not core.square:
        return "the graph does not show that query and key length are equal"
    return "it takes no dense mask and no bias" if spec.mask == "dense" or spec.bias else None


class BlockedWindow(Lowering):
    """n = ceil(S / size) blocks; scores are (B, K, n, G * size, width)."""

    name = "blocked"
    summary = "a window in blocks of queries, each against the keys it can see: O(S W)"
    takes = "windows bounded on both sides, dilated ones too, equal lengths, no dense mask, no bias"
    time = "S W D"
    memory = "S (W + D W / 64)"
    sized = True

    def accepts(self, core: Core) -> str | None:
        pattern = core.spec.pattern
        if not isinstance(pattern, SlidingWindow | Dilated):
            return "it is for windows"
        if pattern.left is None or pattern.right is None:
            return "the window has no limit on one side"
        return refusal(core)

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        reach, gap = _reach(core.spec)
        length = b.size(x.q, 2)
        count = b.op("Mul", blocks(b, length, reach.size * gap), b.ints(gap))
        first = _first(b, count, reach.size, gap)
        inside = np.arange(reach.size) * gap
        rows = b.op("Add", first, constant(b, inside))
        columns = b.op("Unsqueeze", b.op("Add", first, constant(b, reach.columns * gap)), b.ints(0))
        places = steps(b, length)
        tiles = Tiles(reach.size, rows, columns, reach.near(b))
        return attend(b, core, x, tiles, places if gap == 1 else _place(b, places, reach.size, gap))

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        reach, gap = _reach(spec)
        rows = -(-queries // (reach.size * gap)) * reach.size * gap
        return held(spec, batch, rows, reach.size, reach.width, fewest(keys))


def _reach(spec: AttentionSpec) -> tuple[Reach, int]:
    """In steps of the gap between the keys of a window."""
    pattern = spec.pattern
    assert isinstance(pattern, SlidingWindow | Dilated)
    gap = pattern.dilation if isinstance(pattern, Dilated) else 1
    return Reach.of(pattern.left or 0, pattern.right or 0), gap


def _first(b: Builder, count: ir.Value, size: int, gap: int) -> ir.Value:
    """(n, 1): the first position of each block. With gaps, `gap` blocks lie in each other, one for each remainder."""
    block = b.op("Unsqueeze", steps(b, count), b.ints(1))
    if gap == 1:
        return b.op("Mul", block, b.ints(size))
    run = b.op("Mul", b.op("Div", block, b.ints(gap)), b.ints(size * gap))
    return b.op("Add", run, b.op("Mod", block, b.ints(gap)))


def _place(b: Builder, positions: ir.Value, size: int, gap: int) -> ir.Value:
    """Where in the blocks' results each position is."""
    run = b.op("Div", positions, b.ints(size * gap))
    block = b.op("Add", b.op("Mul", run, b.ints(gap)), b.op("Mod", positions, b.ints(gap)))
    inside = b.op("Div", b.op("Mod", positions, b.ints(size * gap)), b.ints(gap))
    return b.op("Add", b.op("Mul", block, b.ints(size)), inside)
