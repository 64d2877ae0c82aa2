"""A window with global positions in O(S (W + G)): the window in blocks, with the global keys as further columns.

Where attention goes both ways, the global positions also see everything: they are few, so their rows are written densely.
(Longformer, Beltagy et al. 2020, section 3.1; causal: StreamingLLM, Xiao et al. 2023, https://arxiv.org/abs/2309.17453.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.blocked import Reach, refusal
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.lowerings.grouped import Grouped
from edgeattn.exporters.lowerings.open_mask import DecomposedOpen, GroupedOpen
from edgeattn.exporters.lowerings.tiles import Tiles, attend, blocks, constant, fewest, held, near, steps
from edgeattn.spec import AttentionSpec, Full, GlobalLocal

_DENSE: tuple[Lowering, ...] = (GroupedOpen(), DecomposedOpen(), Grouped(), Decomposed())
"""For the global rows, the first that accepts them: with a mask even where nothing is hidden, since OpenVINO's unmasked
kernel is wrong for some lengths."""


class BlockedGlobal(Lowering):
    """n = ceil(S / size) blocks; scores are (B, K, n, G * size, tokens + width), then (B, H, tokens, T) for global rows."""

    name = "blocked-global"
    summary = "a window in blocks of queries, the global keys as further columns, global rows densely: O(S (W + G))"
    takes = "a window with global positions in front, equal lengths, no dense mask, no bias; documents if causal"
    time = "S (W + G) D"
    memory = "S (W + G) + S D (W + G) / 64"
    sized = True

    def accepts(self, core: Core) -> str | None:
        pattern = core.spec.pattern
        if not isinstance(pattern, GlobalLocal):
            return "it is for windows with global positions"
        if core.spec.mask == "document" and not pattern.causal:
            return "its global rows are a slice of the queries, which have no documents of their own"
        return refusal(core)

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        pattern = core.spec.pattern
        assert isinstance(pattern, GlobalLocal)
        reach = Reach.of(pattern.left, pattern.right)
        length = b.size(x.q, 2)
        tiles = _tiles(b, pattern, reach, length)
        places = steps(b, length)
        if pattern.causal:
            return attend(b, core, x, tiles, places)
        local = attend(b, core, x, tiles, b.op("Slice", places, b.ints(pattern.tokens), length))
        return b.op("Concat", _global_rows(b, core, x, pattern.tokens), local, axis=2)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        pattern = spec.pattern
        assert isinstance(pattern, GlobalLocal)
        reach = Reach.of(pattern.left, pattern.right)
        rows = -(-queries // reach.size) * reach.size
        tiles = held(spec, batch, rows, reach.size, pattern.tokens + reach.width, fewest(keys))
        if pattern.causal:
            return tiles
        form, full = _dense(Core(spec))
        return tiles + form.scratch(full.spec, batch, min(pattern.tokens, queries), keys)


def _tiles(b: Builder, pattern: GlobalLocal, reach: Reach, length: ir.Value) -> Tiles:
    first = b.op("Unsqueeze", b.op("Mul", steps(b, blocks(b, length, reach.size)), b.ints(reach.size)), b.ints(1))
    rows = b.op("Add", first, constant(b, np.arange(reach.size)))
    local = b.op("Add", first, constant(b, reach.columns))
    local = b.op("Where", b.op("Less", local, b.index(pattern.tokens)), b.index(-1), local)  # it has a column already
    count = b.op("Concat", b.size(first, 0), b.ints(pattern.tokens), axis=0)
    everywhere = b.op("Expand", constant(b, np.arange(pattern.tokens)[None, :]), count)
    columns = b.op("Unsqueeze", b.op("Concat", everywhere, local, axis=1), b.ints(0))
    return Tiles(reach.size, rows, columns, near(b, pattern))


def _global_rows(b: Builder, core: Core, x: Operands, tokens: int) -> ir.Value:
    """(B, H, min(tokens, S), E): the first queries against all keys."""
    form, full = _dense(core)
    first = b.op("Slice", x.q, b.ints(0), b.ints(tokens), b.ints(2))
    return form.lower(b, full, replace(x, q=first))


def _dense(core: Core) -> tuple[Lowering, Core]:
    full = Core(replace(core.spec, pattern=Full()))
    return next(form for form in _DENSE if form.accepts(full) is None), full
