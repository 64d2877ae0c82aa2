"""Attention in tiles: each block of queries against a list of keys of its own, gathered by position.

The forms that are linear in the length differ only in which keys a block of queries may see. They hand that over as
positions; everything after it, from the gathered keys to the context, is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import capped
from edgeattn.exporters.lowerings.formula import Term
from edgeattn.exporters.lowerings.slices import Rows, longest, sliced
from edgeattn.exporters.lowerings.visibility import Visibility, hiding
from edgeattn.patterns import Alignment, Pattern
from edgeattn.spec import AttentionSpec

PARTS = 8
"""Heads are taken in as many equal parts at most, one after the other: memory is held for one of them, and what is held
stays closer to the processor."""
PIECES = ((1024, 1), (4096, 2), (None, 6))
"""(keys at most, pieces): in how many pieces the blocks of a part are taken. More of them keep what is held in a processor's
last cache; short sequences pay for them with a start of every operator, and where there are fewer blocks than pieces the last block
is computed again for each that is missing."""
UNKNOWN = 2
"""Pieces where the number of keys is not known."""
TOGETHER = 2
"""Parts whose contexts are joined as soon as they are there: OpenVINO gives a value that waits the memory of whatever large one was
dropped last, and takes new memory for the next large one."""

Near = Callable[[ir.Value, ir.Value], ir.Value]
"""Rows (n, size) and columns (1 or H, n, w) of tiles -> what a pattern shows, broadcastable to (1 or H, n, size, w)."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """n blocks of `size` queries, and the keys that each may see, as positions in the sequence.

    `rows`: (n, size); what lies beyond the last position fills a block up, and its result is for nobody.
    `columns`: (1, n, w) for all heads, or (H, n, w); each key once. A position outside the sequence is no key.
    `near`: what the pattern says about them, bool; None where all are visible.
    `may_be_empty`: whether the pattern leaves a query without any key.
    """

    size: int
    rows: ir.Value
    columns: ir.Value
    near: Near | None
    per_head: bool = False
    may_be_empty: bool = False

    def of_heads(self, b: Builder, heads: NDArray[Any]) -> Tiles:
        """The tiles of some heads, where heads have their own; `heads` are numbers in a row."""
        bounds = b.ints(int(heads[0])), b.ints(int(heads[-1]) + 1), b.ints(0)
        return replace(self, columns=b.op("Slice", self.columns, *bounds))

    def of_blocks(self, some: Rows) -> Tiles:
        """Some of the blocks."""
        return replace(self, rows=some.of(self.rows, 0), columns=some.of(self.columns, 1))


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


def near(b: Builder, pattern: Pattern) -> Near:
    """A pattern's own formula on the positions of tiles."""

    def shown(rows: ir.Value, columns: ir.Value) -> ir.Value:
        seen: Term = pattern.sees(_TilePlaces(b, rows, columns))
        return seen.value

    return shown


def constant(b: Builder, values: NDArray[Any]) -> ir.Value:
    """A constant of any type and shape."""
    return b.op("Constant", value=ir.tensor(values))


def steps(b: Builder, count: ir.Value) -> ir.Value:
    """0, 1, ..., count - 1, for a 1-D count of one number."""
    return b.op("Range", b.index(0), b.op("Squeeze", count), b.index(1))


def blocks(b: Builder, length: ir.Value, size: int) -> ir.Value:
    """How many blocks of `size` hold `length` positions, 1-D."""
    return b.op("Div", b.op("Add", length, b.ints(size - 1)), b.ints(size))


def attend(b: Builder, core: Core, x: Operands, tiles: Tiles, place: ir.Value | None = None) -> ir.Value:
    """(B, H, n * size, E), block after block; with `place` (S,) the rows there, (B, H, S, E)."""
    spec = core.spec
    units = spec.q_heads if tiles.per_head else spec.kv_heads
    count = 1 if place is None else UNKNOWN if core.max_keys is None else pieces(core.max_keys)
    # Where rows are chosen at the end, a block that is in two pieces does no harm.
    some = [tiles.of_blocks(rows) for rows in sliced(b, b.size(tiles.rows, 0), count)] if count > 1 else [tiles]
    shared = None if tiles.per_head else [_Meeting.of(b, spec, x, piece) for piece in some]

    def part(heads: NDArray[Any]) -> ir.Value:
        meetings = shared or [_Meeting.of(b, spec, x, piece.of_heads(b, heads)) for piece in some]
        return _joined(b, [_attend_heads(b, spec, x, meeting, heads) for meeting in meetings], axis=2)

    parts = np.split(np.arange(units), _parts(units))
    contexts = []
    for first in range(0, len(parts), TOGETHER):
        context = _joined(b, [part(heads) for heads in parts[first : first + TOGETHER]], axis=1)
        contexts.append(context if place is None else b.op("Gather", context, place, axis=2))
    return _joined(b, contexts, axis=1)


def _joined(b: Builder, contexts: Sequence[ir.Value], axis: int) -> ir.Value:
    return b.op("Concat", *contexts, axis=axis) if len(contexts) > 1 else contexts[0]


def held(spec: AttentionSpec, batch: int, rows: int, size: int, width: int, count: int = 1, per_head: bool = False) -> int:
    """Elements of the scores and the gathered keys and values of `rows` queries, for one part of the heads and one of `count`
    pieces; of what is added to scores; and of the contexts of all parts."""
    units = spec.q_heads if per_head else spec.kv_heads
    part = units // _parts(units)
    queries = part if per_head else part * spec.group
    width += spec.sink
    piece = longest(-(-rows // size), count)
    copies = piece * width * part * (spec.head_dim + spec.value_head_dim)
    scores = queries * piece * size * width + (part if per_head else 1) * rows * width
    return batch * (scores + copies + spec.q_heads * rows * spec.value_head_dim)


def pieces(keys: int) -> int:
    """In how many pieces the blocks of sequences of at most `keys` are taken."""
    return next(count for most, count in PIECES if most is None or keys <= most)


def fewest(keys: int) -> int:
    """In how many pieces they are taken at least, whatever a model says of its lengths."""
    return min(pieces(keys), UNKNOWN)


def _parts(units: int) -> int:
    """In how many equal parts heads are taken."""
    return max(count for count in range(1, PARTS + 1) if units % count == 0)


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Tiles within the sequence. `columns` have one more where there is a sink."""

    tiles: Tiles
    rows: ir.Value
    columns: ir.Value
    shown: Visibility

    @classmethod
    def of(cls, b: Builder, spec: AttentionSpec, x: Operands, tiles: Tiles) -> _Meeting:
        length = b.size(x.k, 2)
        last = b.op("Sub", length, b.ints(1))
        rows = b.op("Min", tiles.rows, last)
        columns = b.op("Max", b.op("Min", tiles.columns, last), b.ints(0))
        shown = _shown(b, spec, x, tiles, rows, columns, length)
        return cls(tiles, rows, _with_sink_column(b, columns, length) if spec.sink else columns, shown)


def _attend_heads(b: Builder, spec: AttentionSpec, x: Operands, meeting: _Meeting, heads: NDArray[Any]) -> ir.Value:
    """(B, h, n * size, E): of these key heads the query heads that share them, or of these query heads where heads differ."""
    tiles, shown = meeting.tiles, meeting.shown
    group, size = (1, tiles.size) if tiles.per_head else (spec.group, tiles.size)
    sharers = (heads[:, None] * group + np.arange(group)).ravel()
    keys = heads // spec.group if tiles.per_head else heads
    q = _rows_of(b, x.q, meeting.rows, sharers, spec.head_dim)
    if group > 1:
        apart = b.reshape(q, 0, len(heads), group, -1, size, spec.head_dim)
        q = _merge(b, b.transpose(apart, 0, 1, 3, 2, 4, 5), group, size)
    sizes = spec.head_dim, spec.value_head_dim
    padded = (b.op("Pad", value, b.ints(0, 0, 0, 0, 0, 0, 1, 0)) if spec.sink else value for value in (x.k, x.v))
    k, v = (_rows_of(b, value, meeting.columns, keys, size) for value, size in zip(padded, sizes, strict=True))
    q = b.op("Mul", q, b.number(spec.scale))  # mostly there are fewer of them than scores
    scores = capped(b, spec, b.op("MatMul", q, b.transpose(k, 0, 1, 2, 4, 3)))
    scores = _split(b, scores, group, size)
    scores = shown.add(b, scores) if x.sink is None else _add_with_sink(b, shown, scores, x.sink, sharers, group)
    context = b.op("MatMul", _merge(b, b.op("Softmax", scores, axis=-1), group, size), v)
    context = shown.guard(b, _split(b, context, group, size))
    if group > 1:
        context = b.transpose(context, 0, 1, 3, 2, 4, 5)
    return b.reshape(context, 0, len(sharers), -1, spec.value_head_dim)


def _rows_of(b: Builder, value: ir.Value, positions: ir.Value, heads: NDArray[Any], size: int) -> ir.Value:
    """(B, K, T, D) and positions (n, w), or (1 or h, n, w) -> (B, h, n, w, D): of each head the rows at these positions.

    The shapes of reshaping are constants, D is `size`: OpenVINO shares no memory across operators that compute a shape.
    """
    first = b.op("Mul", constant(b, heads[:, None, None]), b.size(value, 2))
    return b.op("Gather", b.reshape(value, 0, -1, size), b.op("Add", positions, first), axis=1)


def _split(b: Builder, value: ir.Value, group: int, size: int) -> ir.Value:
    """(B, K, n, G * size, .) -> (B, K, n, G, size, .), since the queries of a group share positions; as it is for G = 1."""
    return value if group == 1 else b.reshape(value, 0, 0, 0, group, size, -1)


def _merge(b: Builder, value: ir.Value, group: int, size: int) -> ir.Value:
    """What `_split` takes apart."""
    return value if group == 1 else b.reshape(value, 0, 0, 0, group * size, -1)


def _shown(
    b: Builder,
    spec: AttentionSpec,
    x: Operands,
    tiles: Tiles,
    rows: ir.Value,
    columns: ir.Value,
    length: ir.Value,
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
    for part in (None if tiles.near is None else tiles.near(tiles.rows, tiles.columns), same):
        shown = shown if part is None else b.op("And", shown, part)
    if spec.group > 1 and not tiles.per_head:
        shown = b.op("Unsqueeze", shown, b.ints(3))
    if (x.mask is None and not tiles.may_be_empty) or spec.sink:
        return Visibility(b.op("Where", shown, b.number(0), b.number(-np.inf)), None)
    return hiding(b, shown)


def _with_sink_column(b: Builder, columns: ir.Value, length: ir.Value) -> ir.Value:
    """One more column: the zeros behind the last key, so that its product with any query is 0."""
    shape = b.op("Concat", b.op("Shape", columns, start=0, end=2), b.ints(1), axis=0)
    return b.op("Concat", columns, b.op("Expand", length, shape), axis=2)


def _add_with_sink(
    b: Builder, shown: Visibility, scores: ir.Value, sink: ir.Value, heads: NDArray[Any], group: int
) -> ir.Value:
    """The last column takes the sink of these query heads as its score, and hides from nobody."""
    assert shown.additive is not None
    rank = 5 + (group > 1)
    zeros = b.ints(*[0] * (rank - 1))
    scores = b.op("Add", scores, b.op("Pad", shown.additive, b.op("Concat", zeros, b.ints(*[0] * rank, 1), axis=0)))
    sink = b.op("Gather", b.reshape(sink, -1), constant(b, heads))
    column = b.reshape(sink, 1, -1, 1, 1, 1) if group == 1 else b.reshape(sink, 1, -1, 1, group, 1, 1)
    width = b.op("Sub", b.size(scores, rank - 1), b.ints(1))
    return b.op("Add", scores, b.op("Pad", column, b.op("Concat", zeros, width, b.ints(*[0] * rank), axis=0)))
