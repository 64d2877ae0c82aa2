"""Attention in tiles: each block of queries against a list of keys of its own, gathered by position.

The forms that are linear in the length differ only in which keys a block of queries may see. They hand that over as
positions; everything after it, from the gathered keys to the context, is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Operands
from edgeattn.exporters.lowerings.decomposed import capped
from edgeattn.exporters.lowerings.formula import Term
from edgeattn.exporters.lowerings.visibility import Visibility, hiding
from edgeattn.patterns import Alignment, Pattern
from edgeattn.spec import AttentionSpec


@dataclass(frozen=True, slots=True)
class Tiles:
    """n blocks of `size` queries, and the keys that each may see, as positions in the sequence.

    `rows`: (n, size); what lies beyond the last position fills a block up, and its result is for nobody.
    `columns`: (1, n, w) for all heads, or (H, n, w); each key once. A position outside the sequence is no key.
    `near`: bool, broadcastable to (1 or H, n, size, w): what the pattern says about them; None where all are visible.
    `may_be_empty`: whether the pattern leaves a query without any key.
    """

    size: int
    rows: ir.Value
    columns: ir.Value
    near: ir.Value | None
    per_head: bool = False
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class _TilePlaces:
    """`edgeattn.patterns.Places` of tiles: queries (n, size, 1), keys (1 or H, n, 1, w)."""

    b: Builder
    rows: ir.Value
    columns: ir.Value

    @property
    def keys(self) -> Term:
        return Term(self.b, self.b.op("Unsqueeze", self.columns, self.b.ints(2)))

    @property
    def prefix(self) -> Term:
        raise NotImplementedError

    def queries(self, alignment: Alignment = "upper_left") -> Term:
        return Term(self.b, self.b.op("Unsqueeze", self.rows, self.b.ints(2)))

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Term, columns: Term) -> Term:
        raise NotImplementedError


def near(b: Builder, pattern: Pattern, rows: ir.Value, columns: ir.Value) -> ir.Value:
    """A pattern's own formula on the positions of tiles: bool (1 or H, n, size, w)."""
    shown: Term = pattern.sees(_TilePlaces(b, rows, columns))
    return shown.value


def constant(b: Builder, values: NDArray[Any]) -> ir.Value:
    """A constant of any type and shape."""
    return b.op("Constant", value=ir.tensor(values))


def steps(b: Builder, count: ir.Value) -> ir.Value:
    """0, 1, ..., count - 1, for a 1-D count of one number."""
    return b.op("Range", b.index(0), b.op("Squeeze", count), b.index(1))


def blocks(b: Builder, length: ir.Value, size: int) -> ir.Value:
    """How many blocks of `size` hold `length` positions, 1-D."""
    return b.op("Div", b.op("Add", length, b.ints(size - 1)), b.ints(size))


def attend(b: Builder, spec: AttentionSpec, x: Operands, tiles: Tiles) -> ir.Value:
    """(B, H, n * size, E), block after block."""
    heads, group = (spec.q_heads, 1) if tiles.per_head else (spec.kv_heads, spec.group)
    length = b.size(x.k, 2)
    last = b.op("Sub", length, b.ints(1))
    rows = b.op("Min", tiles.rows, last)
    columns = b.op("Max", b.op("Min", tiles.columns, last), b.ints(0))
    shown = _shown(b, spec, x, tiles, rows, columns, length, group)
    if spec.sink:
        columns = _with_sink_column(b, columns, length)
    q = _queries(b, spec, x.q, rows, tiles.size, group)
    k = _keys(b, spec, x.k, columns, tiles.per_head, spec.head_dim)
    v = _keys(b, spec, x.v, columns, tiles.per_head, spec.value_head_dim)
    scores = capped(b, spec, b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 2, 4, 3)), b.number(spec.scale)))
    scores = _split(b, scores, group, tiles.size)
    scores = shown.add(b, scores) if x.sink is None else _add_with_sink(b, shown, scores, x.sink, heads, group)
    context = b.op("MatMul", _merge(b, b.op("Softmax", scores, axis=-1), group, tiles.size), v)
    context = shown.guard(b, _split(b, context, group, tiles.size))
    if group > 1:
        context = b.transpose(context, 0, 1, 3, 2, 4, 5)
    return b.reshape(context, 0, spec.q_heads, -1, spec.value_head_dim)


def held(spec: AttentionSpec, batch: int, rows: int, size: int, width: int, per_head: bool = False) -> int:
    """Elements of the scores, what is added to them and the gathered keys and values of `rows` queries."""
    heads = spec.q_heads if per_head else spec.kv_heads
    width += spec.sink
    copies = -(-rows // size) * width * heads * (spec.head_dim + spec.value_head_dim)
    return batch * (spec.q_heads * rows * width + rows * width + copies)


def _split(b: Builder, value: ir.Value, group: int, size: int) -> ir.Value:
    """(B, K, n, G * size, .) -> (B, K, n, G, size, .), since the queries of a group share positions; as it is for G = 1."""
    return value if group == 1 else b.reshape(value, 0, 0, 0, group, size, -1)


def _merge(b: Builder, value: ir.Value, group: int, size: int) -> ir.Value:
    """What `_split` takes apart."""
    return value if group == 1 else b.reshape(value, 0, 0, 0, group * size, -1)


def _queries(b: Builder, spec: AttentionSpec, q: ir.Value, rows: ir.Value, size: int, group: int) -> ir.Value:
    """(B, H, S, D) -> (B, K, n, G * size, D)."""
    picked = b.op("Gather", q, rows, axis=2)
    if group == 1:
        return picked
    apart = b.reshape(picked, 0, spec.kv_heads, group, -1, size, spec.head_dim)
    return _merge(b, b.transpose(apart, 0, 1, 3, 2, 4, 5), group, size)


def _keys(b: Builder, spec: AttentionSpec, value: ir.Value, columns: ir.Value, per_head: bool, size: int) -> ir.Value:
    """(B, K, T, D) -> (B, K or H, n, w, D): for each block the keys it meets."""
    if spec.sink:
        value = b.op("Pad", value, b.ints(0, 0, 0, 0, 0, 0, 1, 0))
    if not per_head:
        return b.op("Gather", value, b.op("Squeeze", columns, b.ints(0)), axis=2)
    head = constant(b, (np.arange(spec.q_heads) // spec.group)[:, None, None])
    in_row = b.op("Add", columns, b.op("Mul", head, b.size(value, 2)))
    return b.op("Gather", b.reshape(value, 0, -1, size), in_row, axis=1)


def _shown(
    b: Builder,
    spec: AttentionSpec,
    x: Operands,
    tiles: Tiles,
    rows: ir.Value,
    columns: ir.Value,
    length: ir.Value,
    group: int,
) -> Visibility:
    """What is added to scores of (B, K, n, size, w), or (B, K, n, G, size, w), and which queries see anything."""
    shown = b.op("And", b.op("GreaterOrEqual", tiles.columns, b.index(0)), b.op("Less", tiles.columns, length))
    same = None
    if x.mask is not None:
        keys = b.op("Gather", x.mask, columns, axis=1)  # (B, 1 or H, n, w)
        if spec.mask == "document":
            queries = b.op("Unsqueeze", b.op("Gather", x.mask, rows, axis=1), b.ints(1, 4))
            same = b.op("Equal", queries, b.op("Unsqueeze", keys, b.ints(3)))
            keys = b.op("GreaterOrEqual", keys, b.index(0))
        shown = b.op("And", shown, keys)
    else:
        shown = b.op("Unsqueeze", shown, b.ints(0))
    shown = b.op("Unsqueeze", shown, b.ints(3))  # the same for the queries of a block, until here
    for part in (tiles.near, same):
        shown = shown if part is None else b.op("And", shown, part)
    if group > 1:
        shown = b.op("Unsqueeze", shown, b.ints(3))
    if (x.mask is None and not tiles.may_be_empty) or spec.sink:
        return Visibility(b.op("Where", shown, b.number(0), b.number(-np.inf)), None)
    return hiding(b, shown)


def _with_sink_column(b: Builder, columns: ir.Value, length: ir.Value) -> ir.Value:
    """One more column: the zeros behind the last key, so that its product with any query is 0."""
    shape = b.op("Concat", b.op("Shape", columns, start=0, end=2), b.ints(1), axis=0)
    return b.op("Concat", columns, b.op("Expand", length, shape), axis=2)


def _add_with_sink(b: Builder, shown: Visibility, scores: ir.Value, sink: ir.Value, heads: int, group: int) -> ir.Value:
    """The last column takes the sink as its score, and hides from nobody."""
    assert shown.additive is not None
    rank = 5 + (group > 1)
    zeros = b.ints(*[0] * (rank - 1))
    scores = b.op("Add", scores, b.op("Pad", shown.additive, b.op("Concat", zeros, b.ints(*[0] * rank, 1), axis=0)))
    column = b.reshape(sink, 1, heads, 1, 1, 1) if group == 1 else b.reshape(sink, 1, heads, 1, group, 1, 1)
    width = b.op("Sub", b.size(scores, rank - 1), b.ints(1))
    return b.op("Add", scores, b.op("Pad", column, b.op("Concat", zeros, width, b.ints(*[0] * rank), axis=0)))
