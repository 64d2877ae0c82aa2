"""What an `Attention` operator lets its queries see, as a pattern where a pattern says it, else as masks.

The operator counts the queries of a causal mask or a window from an offset: the length of the past, or, with an external
cache, a row's valid keys minus the query length (which may be negative, and then the first queries see nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.formula import GraphPlaces, Term
from edgeattn.exporters.raising.base import Dim, Operator, dim
from edgeattn.patterns import Alignment, Causal, Full, Pattern, SlidingWindow
from edgeattn.spec import MaskKind

PADDED_SINCE = 24
"""The opset since which a mask that is shorter than the keys hides the rest of them; before, it could only broadcast."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Where the keys come from. `past`: past_key, in front of the new keys. `valid`: nonpad_kv_seqlen, int64 (B,)."""

    past: ir.Value | None
    valid: ir.Value | None
    new_keys: Dim

    def total(self) -> Dim:
        """T, where it is known."""
        if self.past is None:
            return self.new_keys
        before = dim(self.past, 2)
        return before + self.new_keys if isinstance(before, int) and isinstance(self.new_keys, int) else None


@dataclass(frozen=True, slots=True)
class Visible:
    """Fields of a spec, and the inputs that they ask for."""

    pattern: Pattern
    kind: MaskKind
    mask: ir.Value | None
    bias: ir.Value | None


@dataclass(frozen=True, slots=True)
class _Shifted(GraphPlaces):
    """Queries that start at `offset`, (B or 1, 1, 1, 1)."""

    offset: ir.Value | None = None

    def queries(self, alignment: Alignment = "upper_left") -> Term:
        assert self.offset is not None
        return GraphPlaces.queries(self) + Term(self.b, self.offset)


def visible(op: Operator, q: ir.Value, k: ir.Value, queries: Dim, cache: Cache) -> Visible:
    """All of it: is_causal, windows, attn_mask, nonpad_kv_seqlen. q (B, H, S, D), k (B, K, T, D) with the past."""
    b = op.b
    pattern = _pattern(op, "upper_left")
    shown: list[ir.Value] = []
    if not isinstance(pattern, Full) and (cache.past is not None or cache.valid is not None):
        if cache.past is not None and queries is not None and queries == cache.new_keys:
            pattern = _pattern(op, "lower_right")
        else:
            places = _Shifted(b, q, k, square=False, offset=_offset(b, q, cache))
            shown.append(pattern.sees(places).value)
            pattern = Full()
    attn_mask = _mask(op, k, cache.total())
    bias = None
    if attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        shown.append(attn_mask)
    elif attn_mask is not None:
        bias = attn_mask
    padding = None if cache.valid is None else _padding(b, k, cache.valid)
    if not shown:
        return Visible(pattern, "none" if padding is None else "key_padding", padding, bias)
    if padding is not None:
        shown.append(b.op("Unsqueeze", padding, b.ints(1, 2)))
    mask = shown[0]
    for other in shown[1:]:
        mask = b.op("And", mask, other)
    return Visible(pattern, "dense", mask, bias)


def _pattern(op: Operator, alignment: Alignment) -> Pattern:
    left, right = _limit(op, "left"), 0 if op.attribute("is_causal", 0) else _limit(op, "right")
    if left is None and right is None:
        return Full()
    return Causal(alignment) if (left, right) == (None, 0) else SlidingWindow(left, right, alignment)


def _limit(op: Operator, side: str) -> int | None:
    size = int(op.attribute(f"{side}_window_size", -1))
    return None if size < 0 else size


def _offset(b: Builder, q: ir.Value, cache: Cache) -> ir.Value:
    """The position of the first query, (B or 1, 1, 1, 1)."""
    start = b.size(cache.past, 2) if cache.past is not None else b.op("Sub", cache.valid, b.size(q, 2))
    return b.op("Unsqueeze", start, b.ints(1, 2, 3))


def _padding(b: Builder, k: ir.Value, valid: ir.Value) -> ir.Value:
    """(B, T) bool from the number of valid keys of each row."""
    keys = b.op("Range", b.index(0), b.op("Squeeze", b.size(k, 2)), b.index(1))
    return b.op("Less", keys, b.op("Unsqueeze", valid, b.ints(1)))


def _mask(op: Operator, k: ir.Value, total: Dim) -> ir.Value | None:
    """attn_mask, bool or float32, with four axes and, since opset 24, as many keys as there are."""
    b, given = op.b, op.input(3)
    if given is None:
        return None
    is_bool = given.dtype == ir.DataType.BOOL
    missing, length = 4 - op.rank(given), dim(given, -1)
    mask = given if is_bool else op.single(given)
    if missing:
        mask = b.op("Unsqueeze", mask, b.ints(*range(missing)))
    if op.opset >= PADDED_SINCE and (length is None or length != total):
        after = b.op("Sub", b.size(k, 2), b.size(mask, 3))
        hidden = b.op("Constant", value=ir.tensor(np.array(False))) if is_bool else b.number(-np.inf)
        mask = b.op("Pad", mask, b.op("Concat", b.ints(*[0] * 7), after, axis=0), hidden)
    mask.type = ir.TensorType(ir.DataType.BOOL if is_bool else ir.DataType.FLOAT)
    return mask
