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
from edgeattn.exporters.lowerings.formula import GraphPlaces
from edgeattn.exporters.lowerings.slices import Rows
from edgeattn.patterns import Full, Pattern, always_sees


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


def visibility(b: Builder, core: Core, x: Operands, pattern: Pattern | None = None, rows: Rows | None = None) -> Visibility:
    """Pattern, mask and bias of a site as one tensor. `pattern` replaces the spec's where an operator does part of it;
    `rows` are the queries it is for, all by default."""
    pattern = core.spec.pattern if pattern is None else pattern
    shown = seen(b, core, x, pattern, rows)
    if shown is None and x.bias is None:
        return Visibility(None, None)
    if x.bias is not None:
        return _with_bias(b, shown, _of_rows(rows, x.bias, core.bias_dims))
    assert shown is not None
    if x.mask is None and always_sees(pattern, core.square):
        return Visibility(b.op("Where", shown, b.number(0), b.number(-np.inf)), None)
    return hiding(b, shown)


def hiding(b: Builder, shown: ir.Value) -> Visibility:
    """What hides the keys where `shown` (bool) is False, with a guard for rows without a key."""
    nonempty, empty = _rows_seen(b, shown)
    return Visibility(b.op("Where", b.op("Or", shown, empty), b.number(0), b.number(-np.inf)), nonempty)


def seen(b: Builder, core: Core, x: Operands, pattern: Pattern, rows: Rows | None = None) -> ir.Value | None:
    """Bool, broadcastable to (B, H, S, T): pattern and mask together; None when every key is visible."""
    shown = None
    if not isinstance(pattern, Full):
        shown = pattern.sees(GraphPlaces(b, x.q, x.k, core.square, x.prefix, rows)).value
    if x.mask is None:
        return shown
    mask = _mask(b, core, x.mask, rows)
    return mask if shown is None else b.op("And", shown, mask)


def _mask(b: Builder, core: Core, mask: ir.Value, rows: Rows | None) -> ir.Value:
    if core.spec.mask == "dense":
        return _of_rows(rows, mask, core.mask_dims)
    keys = b.op("Unsqueeze", mask, b.ints(1, 2))
    if core.spec.mask == "key_padding":
        return keys
    queries = mask if rows is None else rows.of(mask, 1)
    same = b.op("Equal", b.op("Unsqueeze", queries, b.ints(1, 3)), keys)
    return b.op("And", same, b.op("GreaterOrEqual", keys, b.index(0)))


def _of_rows(rows: Rows | None, value: ir.Value, dims: tuple[int | None, ...]) -> ir.Value:
    """A mask or bias for some queries; one that is the same for all of them stays as it is."""
    same_for_all = len(dims) == 1 or (len(dims) > 1 and dims[-2] == 1)
    return value if rows is None or same_for_all else rows.of(value, -2)


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
