"""Which query sees which key, in standard operators: one additive 0 / -inf tensor and a guard for empty rows.

Hidden keys get exactly -inf. A large finite number instead would be cheaper on some runtimes and wrong: it loses
against scores of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.spec import Causal, Full, Pattern, SlidingWindow


@dataclass(frozen=True, slots=True)
class Visibility:
    """`additive`: 0 or -inf (plus the bias), broadcastable to (B, H, S, T); None when every key is visible.

    `nonempty`: 1 or 0, broadcastable to (B, H, S, 1); None when no row can be empty. Rows that see nothing have an
    additive of 0, so that a softmax stays finite; `guard` then sets their output to 0.
    """

    additive: ir.Value | None
    nonempty: ir.Value | None

    def add(self, b: Builder, scores: ir.Value) -> ir.Value:
        """Scores with hidden keys at -inf."""
        return scores if self.additive is None else b.op("Add", scores, self.additive)

    def guard(self, b: Builder, context: ir.Value) -> ir.Value:
        """Zeros for queries that see no key."""
        return context if self.nonempty is None else b.op("Mul", context, self.nonempty)

    def guard_rows(self, b: Builder, rows: ir.Value, per_batch: bool) -> ir.Value:
        """`guard` on (B, S, H * E), where the model's transposes can still cancel; heads must not differ."""
        if self.nonempty is None:
            return rows
        return b.op("Mul", rows, b.op("Squeeze", self.nonempty, b.ints(1)) if per_batch else self.nonempty)

    def full(self, b: Builder, x: Operands) -> ir.Value | None:
        """`additive` with its last two axes expanded to (S, T), as operators want that take a mask tensor."""
        if self.additive is None:
            return None
        return b.op("Expand", self.additive, b.op("Concat", b.ints(1, 1), b.size(x.q, 2), b.size(x.k, 2), axis=0))


def visibility(b: Builder, core: Core, x: Operands, pattern: Pattern | None = None) -> Visibility:
    """Pattern, mask and bias of a site as one tensor. `pattern` replaces the spec's where an operator does part of it."""
    pattern = core.spec.pattern if pattern is None else pattern
    shown = _pattern(b, core, x, pattern)
    if x.mask is not None:
        mask = b.op("Unsqueeze", x.mask, b.ints(1, 2)) if core.spec.mask == "key_padding" else x.mask
        shown = mask if shown is None else b.op("And", shown, mask)
    if shown is None and x.bias is None:
        return Visibility(None, None)
    if x.bias is not None:
        return _with_bias(b, shown, x.bias)
    assert shown is not None
    if x.mask is None and not _may_be_empty(pattern, core.square):
        return Visibility(b.op("Where", shown, b.number(0), b.number(-np.inf)), None)
    nonempty, empty = _rows_seen(b, shown)
    return Visibility(b.op("Where", b.op("Or", shown, empty), b.number(0), b.number(-np.inf)), nonempty)


def _with_bias(b: Builder, shown: ir.Value | None, bias: ir.Value) -> Visibility:
    """A bias may hold -inf itself, and then hides the key. Read off key by key: a maximum over a row of -inf is not
    reliable on every runtime, and neither is an equality with -inf."""
    seen = b.op("GreaterOrEqual", bias, b.number(float(np.finfo(b.dtype.numpy()).min)))
    seen = seen if shown is None else b.op("And", shown, seen)
    nonempty, empty = _rows_seen(b, seen)
    total = bias if shown is None else b.op("Where", shown, bias, b.number(-np.inf))
    return Visibility(b.op("Where", empty, b.number(0), total), nonempty)


def _rows_seen(b: Builder, shown: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Per row: 1 or 0 as it sees a key or not, and whether it sees none."""
    nonempty = b.op("ReduceMax", b.op("Cast", shown, to=b.dtype), b.ints(-1), keepdims=1)
    return nonempty, b.op("Equal", nonempty, b.number(0))


def _pattern(b: Builder, core: Core, x: Operands, pattern: Pattern) -> ir.Value | None:
    if isinstance(pattern, Full):
        return None
    queries, keys = (b.op("Squeeze", b.size(value, 2)) for value in (x.q, x.k))
    rows = b.op("Unsqueeze", b.op("Range", b.index(0), queries, b.index(1)), b.ints(1))
    columns = b.op("Unsqueeze", b.op("Range", b.index(0), keys, b.index(1)), b.ints(0))
    distance = b.op("Sub", columns, rows)
    if pattern.alignment == "lower_right" and not core.square:
        distance = b.op("Sub", distance, b.op("Sub", keys, queries))
    left, right = (None, 0) if isinstance(pattern, Causal) else (pattern.left, pattern.right)
    shown = None if right is None else b.op("LessOrEqual", distance, b.index(right))
    if left is not None:
        near = b.op("GreaterOrEqual", distance, b.index(-left))
        shown = near if shown is None else b.op("And", shown, near)
    return shown


def _may_be_empty(pattern: Pattern, square: bool) -> bool:
    """Whether some query may see no key for some S and T. With S == T every query sees itself."""
    if square or isinstance(pattern, Full):
        return False
    return pattern.alignment == "lower_right" or (isinstance(pattern, SlidingWindow) and pattern.left is not None)
