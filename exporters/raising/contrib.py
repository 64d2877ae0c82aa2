"""com.microsoft attention, as ONNX Runtime's optimizer writes it, read back into captured nodes. Without a cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.lowerings.base import Operands
from edgeattn.exporters.raising.base import Operator, dim
from edgeattn.patterns import Causal, Full, Pattern, SlidingWindow
from edgeattn.spec import MaskKind, SoftmaxAttention

CACHE = "decoder caches are not supported yet; export the model without one (use_cache=False)"


def raise_contrib_attention(op: Operator) -> list[ir.Value | None]:
    """`Attention`: the projection of x (B, S, I) to queries, keys and values, attention, heads side by side.

    Raises:
        RaisingError: a cache, rotary embeddings, or a mask of a form that no spec says.
    """
    b, heads = op.b, int(op.attribute("num_heads", 0))
    _refuse(op, (4, 6), "past")
    if op.attribute("do_rotary", 0):
        raise op.error("it turns its queries and keys by itself (do_rotary)")
    weights = op.operand(1)
    width = op.fixed(weights, 1)
    sizes = list(op.attribute("qkv_hidden_sizes") or [width // 3] * 3)
    projected = b.op("MatMul", op.operand(0), weights)
    if (bias := op.input(2)) is not None:
        projected = b.op("Add", projected, bias)
    parts = b.ops("Split", projected, b.ints(*sizes), outputs=3, axis=2)
    x = op.operand(0)
    rows = [_rows(op, part, x, size) for part, size in zip(parts, sizes, strict=True)]
    q, k, v = (_heads(op, row, heads) for row in rows)
    kind, mask = _mask(op, op.input(3), k)
    return _attend(op, Operands(q, k, v, mask, op.input(5)), kind, _causal(op), x)


def raise_multi_head_attention(op: Operator) -> list[ir.Value | None]:
    """`MultiHeadAttention` on query (B, S, H * D), key and value (B, T, H * D), or (B, H, T, D) of cross-attention.

    Raises:
        RaisingError: a cache, packed operands, or a mask of a form that no spec says.
    """
    heads = int(op.attribute("num_heads", 0))
    _refuse(op, (6, 7, 8, 9), "past_key")
    given = [op.operand(i) for i in range(3)]
    if any(op.rank(value) == 5 for value in given):
        raise op.error("its queries, keys and values are packed in one tensor")
    rows = given if op.input(3) is None else _with_bias(op, given, op.operand(3))
    q, k, v = (_heads(op, row, heads) for row in rows)
    kind, mask = _mask(op, op.input(4), k)
    return _attend(op, Operands(q, k, v, mask, op.input(5)), kind, _causal(op), given[0])


def raise_group_query_attention(op: Operator) -> list[ir.Value | None]:
    """`GroupQueryAttention` without a past: causal, over the first seqlens_k + 1 keys of a row.

    Raises:
        RaisingError: a cache, rotary embeddings, packed operands, normalized or quantized keys.
    """
    b, x = op.b, op.operand(0)
    heads, kv_heads = int(op.attribute("num_heads", 0)), int(op.attribute("kv_num_heads", 0))
    _refuse(op, (3, 4), "past_key")
    if op.input(1) is None or op.input(2) is None:
        raise op.error("its queries, keys and values are packed in one tensor")
    if (
        op.attribute("do_rotary", 0)
        or op.attribute("smooth_softmax", 0) > 0
        or any(op.input(i) is not None for i in range(11, 16))
    ):
        raise op.error("it turns, normalizes or rescales its keys, or adds a sink, by itself")
    q = _heads(op, x, heads)
    k, v = (_heads(op, op.operand(i), kv_heads) for i in (1, 2))
    last = b.op("Unsqueeze", b.op("Cast", op.operand(5), to=ir.DataType.INT64), b.ints(1))
    mask = _typed(b.op("LessOrEqual", _places(op, k), last), ir.DataType.BOOL, [dim(k, 0), dim(k, 2)])
    window = int(op.attribute("local_window_size", -1))
    pattern: Pattern = SlidingWindow(window - 1, 0) if window > 0 else Causal()
    if not op.attribute("causal", 1):
        pattern = Full()
    return _attend(op, Operands(q, k, v, mask, op.input(10)), "key_padding", pattern, x)


def _attend(op: Operator, x: Operands, kind: MaskKind, pattern: Pattern, like: ir.Value) -> list[ir.Value | None]:
    """The core between (B, H, S, D) operands, and its result with heads side by side, in the type of `like`."""
    spec = SoftmaxAttention(
        op.fixed(x.q, 1),
        op.fixed(x.k, 1),
        op.fixed(x.q, 3),
        value_head_dim=op.fixed(x.v, 3),
        scale=float(op.attribute("scale", 0.0)),
        softcap=float(op.attribute("softcap", 0.0)) or None,
        pattern=pattern,
        mask=kind,
        bias=x.bias is not None,
    )
    single = [op.single(value) for value in (x.q, x.k, x.v)]
    x = dataclasses.replace(x, bias=None if x.bias is None else op.single(x.bias))
    context = op.core(spec, *single, x.mask, x.bias, dims=(dim(like, 0), dim(like, 1)))
    flat = op.b.reshape(op.b.transpose(context, 0, 2, 1, 3), 0, 0, spec.q_heads * spec.value_head_dim)
    return [op.returned(flat, like)]


def _refuse(op: Operator, inputs: tuple[int, ...], what: str) -> None:
    if any(op.input(i) is not None for i in inputs) or any(out.uses() or out.is_graph_output() for out in op.node.outputs[1:]):
        raise op.error(f"it has a key/value cache ({what}); {CACHE}")


def _causal(op: Operator) -> Pattern:
    return Causal() if op.attribute("unidirectional", 0) else Full()


def _rows(op: Operator, part: ir.Value, x: ir.Value, size: int) -> ir.Value:
    return _typed(part, x.dtype, [dim(x, 0), dim(x, 1), size])


def _typed(value: ir.Value, dtype: ir.DataType | None, dims: list[Any]) -> ir.Value:
    value.type = None if dtype is None else ir.TensorType(dtype)
    value.shape = ir.Shape(dims)
    return value


def _heads(op: Operator, rows: ir.Value, heads: int) -> ir.Value:
    """(B, S, H * D) -> (B, H, S, D); four axes stay."""
    if not heads:
        raise op.error("it does not say how many heads it has")
    if op.rank(rows) == 4:
        return rows
    size = op.fixed(rows, 2) // heads
    split = op.b.transpose(op.b.reshape(rows, 0, 0, heads, size), 0, 2, 1, 3)
    return _typed(split, rows.dtype, [dim(rows, 0), heads, dim(rows, 1), size])


def _with_bias(op: Operator, rows: list[ir.Value], bias: ir.Value) -> list[ir.Value]:
    """Each with its part of the projection's bias; keys and values with four axes have it already."""
    sizes = [op.fixed(row, 2) if op.rank(row) == 3 else op.fixed(row, 1) * op.fixed(row, 3) for row in rows]
    parts = op.b.ops("Split", bias, op.b.ints(*sizes), outputs=3, axis=0)
    added = []
    for row, part in zip(rows, parts, strict=True):
        total = row if op.rank(row) == 4 else op.b.op("Add", row, part)
        total.type, total.shape = row.type, row.shape
        added.append(total)
    return added


def _mask(op: Operator, given: ir.Value | None, k: ir.Value) -> tuple[MaskKind, ir.Value | None]:
    """What a mask input hides: (B, T) or (B, S, T) with 0 where hidden, or (B,) valid keys. k (B, H, T, D)."""
    if given is None:
        return "none", None
    b, axes = op.b, op.rank(given)
    if axes == 2:
        return "key_padding", _typed(b.op("Cast", given, to=ir.DataType.BOOL), ir.DataType.BOOL, list(given.shape or ()))
    if axes == 3:
        shown = b.op("Unsqueeze", b.op("Cast", given, to=ir.DataType.BOOL), b.ints(1))
        dims = list(given.shape or ())
        return "dense", _typed(shown, ir.DataType.BOOL, [dims[0], 1, *dims[1:]])
    if axes == 1 and dim(given, 0) is not None and dim(given, 0) == dim(k, 0):
        length = b.op("Unsqueeze", b.op("Cast", given, to=ir.DataType.INT64), b.ints(1))
        return "key_padding", _typed(b.op("Less", _places(op, k), length), ir.DataType.BOOL, [dim(k, 0), dim(k, 2)])
    raise op.error(
        f"its mask {given.name!r} has shape {given.shape}; expected (batch, keys), (batch, queries, keys) or (batch)"
    )


def _places(op: Operator, k: ir.Value) -> ir.Value:
    """(T,): the position of each key."""
    b = op.b
    length = b.op("Squeeze", b.size(k, 2))
    return b.op("Range", b.op("Constant", value=ir.tensor(np.array(0))), length, b.op("Constant", value=ir.tensor(np.array(1))))
