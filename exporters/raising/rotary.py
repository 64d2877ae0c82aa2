"""ai.onnx `RotaryEmbedding`-23 in operators of opset 18."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.raising.base import Operator


def raise_rotary(op: Operator) -> list[ir.Value | None]:
    """What replaces the output: pairs of the first `rotary_embedding_dim` sizes, turned by the angles of the position.

    Su et al., "RoFormer", 2021 (https://arxiv.org/abs/2104.09864). X is (B, H, S, D) or (B, S, H * D).

    Raises:
        RaisingError: a head size that the graph does not know.
    """
    b, x = op.b, op.operand(0)
    flat = op.rank(x) == 3
    heads = op.attribute("num_heads", 0)
    if flat and not heads:
        raise op.error(f"{x.name!r} has 3 axes, so the attribute num_heads must say how many heads it holds")
    size = op.fixed(x, op.rank(x) - 1) // (heads if flat else 1)
    turned = op.attribute("rotary_embedding_dim", 0) or size
    rows = b.reshape(x, 0, 0, heads, size) if flat else x
    angles = [_angles(op, op.operand(i), heads_axis=2 if flat else 1) for i in (1, 2)]
    if turned < size:
        head, tail = b.ops("Split", rows, b.ints(turned, size - turned), outputs=2, axis=3)
        rows = b.op("Concat", _turn(op, head, turned, *angles), tail, axis=3)
    else:
        rows = _turn(op, rows, turned, *angles)
    return [b.reshape(rows, 0, 0, heads * size) if flat else rows]


def _angles(op: Operator, cache: ir.Value, heads_axis: int) -> ir.Value:
    """Rows of a cosine or sine table for each position, the same for all heads."""
    positions = op.input(3)
    rows = cache if positions is None else op.b.op("Gather", cache, positions, axis=0)
    return op.b.op("Unsqueeze", rows, op.b.ints(heads_axis))


def _turn(op: Operator, x: ir.Value, size: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """Each pair as a point in the plane. A pair is (i, i + size / 2), or (2 i, 2 i + 1) where `interleaved`."""
    b, half = op.b, size // 2
    interleaved = op.attribute("interleaved", 0)
    if interleaved:
        # the pair becomes an axis of its own
        pairs = b.reshape(x, 0, 0, 0, half, 2)
        first, second = (b.op("Squeeze", part, b.ints(4)) for part in b.ops("Split", pairs, b.ints(1, 1), outputs=2, axis=4))
    else:
        first, second = b.ops("Split", x, b.ints(half, half), outputs=2, axis=3)
    turned = (
        b.op("Sub", b.op("Mul", cos, first), b.op("Mul", sin, second)),
        b.op("Add", b.op("Mul", sin, first), b.op("Mul", cos, second)),
    )
    if not interleaved:
        return b.op("Concat", *turned, axis=3)
    return b.reshape(b.op("Concat", *(b.op("Unsqueeze", part, b.ints(4)) for part in turned), axis=4), 0, 0, 0, size)
