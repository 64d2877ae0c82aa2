"""Scores to weights in standard operators, for every normalizer; forms that hold scores share it."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Operands
from edgeattn.exporters.lowerings.visibility import Visibility
from edgeattn.normalizers import Entmax15, Sigmoid, Sparsemax, TopK
from edgeattn.spec import AttentionSpec


def weigh(b: Builder, spec: AttentionSpec, scores: ir.Value, shown: Visibility, x: Operands) -> ir.Value:
    """(B, H, S, T) scores -> weights. Rows that see nothing come out finite; `shown.guard` empties them later."""
    scores = shown.add(b, scores)
    if x.sink is not None:
        return _with_sink(b, spec, scores, x.sink)
    match spec.normalizer:
        case Sigmoid(offset):
            return _sigmoid(b, scores, offset, x)
        case Sparsemax():
            return _sparse(b, scores, x, power=1)
        case Entmax15():
            return _sparse(b, scores, x, power=2)
        case TopK(k):
            least = _ordered(b, scores, b.op("Min", b.ints(k), b.size(x.k, 2)))
            least = b.op("Slice", least, b.ints(-1), b.ints(2**31), b.ints(3))
            scores = b.op("Where", b.op("Less", scores, least), b.number(float("-inf")), scores)
    return b.op("Softmax", scores, axis=-1)


def _with_sink(b: Builder, spec: AttentionSpec, scores: ir.Value, sink: ir.Value) -> ir.Value:
    """One more column of scores, dropped again after the softmax."""
    rows = b.op("Concat", b.op("Shape", scores, start=0, end=3), b.ints(1), axis=0)
    column = b.op("Expand", b.reshape(sink, 1, spec.q_heads, 1, 1), rows)
    weights = b.op("Softmax", b.op("Concat", scores, column, axis=-1), axis=-1)
    return b.op("Slice", weights, b.ints(0), b.ints(-1), b.ints(3))


def _sigmoid(b: Builder, scores: ir.Value, offset: float | None, x: Operands) -> ir.Value:
    if offset is not None:
        return b.op("Sigmoid", b.op("Add", scores, b.number(offset)))
    keys = b.op("Cast", b.op("Squeeze", b.size(x.k, 2)), to=b.dtype)
    return b.op("Sigmoid", b.op("Sub", scores, b.op("Log", keys)))


def _sparse(b: Builder, scores: ir.Value, x: Operands, power: int) -> ir.Value:
    """max(score - tau, 0)^power: of the ranks whose own threshold lies below their score, the last counts.

    The highest score is 0, so no tau is below -1, and raising lower scores to -2 changes nothing but keeps them finite.
    """
    if power == 2:
        scores = b.op("Mul", scores, b.number(0.5))
    scores = b.op("Sub", scores, b.op("ReduceMax", scores, b.ints(-1), keepdims=1))
    scores = b.op("Max", scores, b.number(-2))
    keys = b.size(x.k, 2)
    ordered = _ordered(b, scores, keys)
    rank = b.op("Cast", b.op("Range", b.index(1), b.op("Squeeze", b.op("Add", keys, b.ints(1))), b.index(1)), to=b.dtype)
    mean = b.op("Div", b.op("CumSum", ordered, b.index(-1)), rank)
    one = b.number(1)
    if power == 1:
        tau = b.op("Sub", mean, b.op("Div", one, rank))
    else:
        squares = b.op("CumSum", b.op("Mul", ordered, ordered), b.index(-1))
        spread = b.op("Sub", squares, b.op("Mul", rank, b.op("Mul", mean, mean)))
        room = b.op("Max", b.op("Div", b.op("Sub", one, spread), rank), b.number(0))
        tau = b.op("Sub", mean, b.op("Sqrt", room))
    inside = b.op("Cast", b.op("LessOrEqual", tau, ordered), to=ir.DataType.INT64)
    last = b.op("Sub", b.op("ReduceSum", inside, b.ints(-1), keepdims=1), b.ints(1))
    weights = b.op("Max", b.op("Sub", scores, b.op("GatherElements", tau, last, axis=3)), b.number(0))
    return b.op("Mul", weights, weights) if power == 2 else weights


def _ordered(b: Builder, scores: ir.Value, count: ir.Value) -> ir.Value:
    """The `count` highest scores of each row, falling."""
    return b.ops("TopK", scores, count, outputs=2, axis=-1, largest=1, sorted=1)[0]
