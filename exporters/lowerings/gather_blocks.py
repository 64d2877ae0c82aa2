"""Static layouts of blocks: each block of queries against the blocks of keys that its row of the layout names.

Rows are padded to the same number of key blocks. A layout in the manner of BigBird (Zaheer et al. 2020, appendix D) has a
few rows that see everything, so rows are split in two by their number of key blocks, where that saves most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.blocked import refusal
from edgeattn.exporters.lowerings.tiles import Tiles, attend, blocks, constant, held, near, steps
from edgeattn.patterns import always_sees
from edgeattn.spec import AttentionSpec, BlockSparse, Causal

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of a layout, rising, and the key blocks they see: (heads of the layout, rows, most). Where there are
    fewer, the rest is a number beyond the last block."""

    rows: Ints
    seen: Ints


def buckets(pattern: BlockSparse) -> tuple[Bucket, ...]:
    """One bucket, or two: the rows that see more blocks than the others, where that makes less work in all."""
    bits = np.array([[[entry == "1" for entry in row] for row in head] for head in pattern.layout])
    if pattern.causal:
        bits = np.tril(bits)
    most = np.maximum(bits.sum(axis=2).max(axis=0), 1)  # of any head, per row
    work = {int(edge): (most <= edge).sum() * edge + (most > edge).sum() * most.max() for edge in np.unique(most)}
    edge = min(work, key=lambda edge: (work[edge], -edge))
    split = (np.flatnonzero(most <= edge), np.flatnonzero(most > edge))
    return tuple(Bucket(rows, _table(bits[:, rows], int(most[rows].max()))) for rows in split if rows.size)


def share(pattern: BlockSparse) -> float:
    """Of all pairs of blocks, those that are computed: the visible ones and what pads the rows of a bucket."""
    computed = sum(len(bucket.rows) * bucket.seen.shape[2] for bucket in buckets(pattern))
    return float(computed / len(pattern.layout[0]) ** 2)


class GatherBlocks(Lowering):
    """Per bucket, scores are (B, K, n, G * block, most * block), with heads apart where the layout tells them apart."""

    name = "gather-blocks"
    summary = "a static layout of blocks: the key blocks of each row gathered, so that hidden ones cost nothing"
    takes = "block-sparse layouts, equal lengths, no dense mask, no bias"
    time = "S W D"
    memory = "S (W + D W / block)"

    def accepts(self, core: Core) -> str | None:
        return refusal(core) if isinstance(core.spec.pattern, BlockSparse) else "it is for layouts of blocks"

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        pattern = core.spec.pattern
        assert isinstance(pattern, BlockSparse)
        length = b.size(x.q, 2)
        here = blocks(b, length, pattern.block)
        split = buckets(pattern)
        counts = [_count(b, bucket, here) for bucket in split]
        parts = [
            attend(b, core, x, _tiles(b, pattern, bucket, count, here)) for bucket, count in zip(split, counts, strict=True)
        ]
        context = b.op("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]
        return b.op("Gather", context, _place(b, pattern, split, counts, length), axis=2)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        pattern = spec.pattern
        assert isinstance(pattern, BlockSparse)
        here, total = -(-queries // pattern.block), 0
        for bucket in buckets(pattern):
            rows = max(1, int((bucket.rows < here).sum())) * pattern.block
            width = min(bucket.seen.shape[2], here) * pattern.block
            total += held(spec, batch, rows, pattern.block, width, per_head=len(pattern.layout) > 1)
        return total


def _table(bits: NDArray[np.bool_], most: int) -> Ints:
    """(heads, rows, most): the blocks that are seen, rising, then a number beyond the last block."""
    numbers = np.where(bits, np.arange(bits.shape[2]), bits.shape[2])
    return np.sort(numbers, axis=2)[:, :, :most]


def _count(b: Builder, bucket: Bucket, here: ir.Value) -> ir.Value:
    """How many of its rows the sequence reaches; at least one, since an empty product is not safe on every runtime."""
    reached = b.op("Cast", b.op("Less", constant(b, bucket.rows), here), to=ir.DataType.INT64)
    return b.op("Max", b.op("ReduceSum", reached, b.ints(0), keepdims=1), b.ints(1))


def _tiles(b: Builder, pattern: BlockSparse, bucket: Bucket, count: ir.Value, here: ir.Value) -> Tiles:
    inside = np.arange(pattern.block)
    chosen = b.op("Slice", constant(b, bucket.rows[:, None] * pattern.block + inside), b.ints(0), count, b.ints(0))
    # of rising numbers, those of blocks that are there come first, and there are at most `here` of them
    end = b.op("Concat", count, here, axis=0)
    seen = b.op("Slice", constant(b, bucket.seen), b.ints(0, 0), end, b.ints(1, 2))
    seen = b.op("Mul", b.op("Unsqueeze", seen, b.ints(3)), b.ints(pattern.block))
    columns = b.reshape(b.op("Add", seen, constant(b, inside)), len(pattern.layout), 0, -1)
    return Tiles(
        size=pattern.block,
        rows=chosen,
        columns=columns,
        near=near(b, Causal()) if pattern.causal else None,
        per_head=len(pattern.layout) > 1,
        may_be_empty=not always_sees(pattern, square=True),
    )


def _place(b: Builder, pattern: BlockSparse, split: tuple[Bucket, ...], counts: list[ir.Value], length: ir.Value) -> ir.Value:
    """Where in the buckets' results each position is. Fails, as it must, on a sequence longer than the layout."""
    slot = np.zeros(len(pattern.layout[0]), dtype=np.int64)
    for bucket in split:
        slot[bucket.rows] = np.arange(len(bucket.rows))
    positions = steps(b, length)
    row = b.op("Div", positions, b.ints(pattern.block))
    block = b.op("Gather", constant(b, slot), row)
    if len(split) > 1:
        second = np.isin(np.arange(len(slot)), split[1].rows).astype(np.int64)
        block = b.op("Add", block, b.op("Mul", b.op("Gather", constant(b, second), row), counts[0]))
    return b.op("Add", b.op("Mul", block, b.ints(pattern.block)), b.op("Mod", positions, b.ints(pattern.block)))
