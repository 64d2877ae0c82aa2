"""ai.onnx `Attention`, opset 23 to 25, as a canonical node with standard operators around it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import repeat_heads, scaled_scores
from edgeattn.exporters.lowerings.normalize import weigh
from edgeattn.exporters.lowerings.visibility import seen, visibility
from edgeattn.exporters.raising.base import Operator, dim
from edgeattn.exporters.raising.visible import Cache, visible
from edgeattn.spec import AttentionSpec, SoftmaxAttention

AFTER_CAP, AFTER_MASK, AFTER_SOFTMAX = 1, 2, 3
"""qk_matmul_output_mode; 0 is the product itself."""


def raise_onnx_attention(op: Operator) -> list[ir.Value | None]:
    """What replaces the outputs Y, present_key, present_value, qk_matmul_output.

    The softmax runs in float32 whatever `softmax_precision` says: for narrower types that is no loss, and a softmax in
    float64 of float32 scores differs from it by rounding only.

    Raises:
        RaisingError: head counts or sizes that the graph does not know, or float64 operands.
    """
    q, k, v = (op.operand(i) for i in range(3))
    q_heads, kv_heads = _heads(op, q, "q_num_heads"), _heads(op, k, "kv_num_heads")
    flat = op.rank(q) == 3
    length_axis = 1 if flat else 2
    cache = Cache(op.input(4), op.input(6), dim(k, length_axis))
    queries, keys = _split(op, q, q_heads), _with_past(op, _split(op, k, kv_heads), cache.past)
    values = _with_past(op, _split(op, v, kv_heads), op.input(5))
    # three axes hold the heads side by side
    head_dim, value_head_dim = (op.fixed(x, op.rank(x) - 1) // (n if flat else 1) for x, n in ((q, q_heads), (v, kv_heads)))
    x = Operands(*(_in_single(op, value, source) for value, source in ((queries, q), (keys, k), (values, v))))
    sight = visible(op, x.q, x.k, dim(q, length_axis), cache)
    spec = SoftmaxAttention(
        q_heads,
        kv_heads,
        head_dim,
        value_head_dim=value_head_dim,
        scale=op.attribute("scale", 0.0),
        pattern=sight.pattern,
        softcap=op.attribute("softcap", 0.0) or None,
        mask=sight.kind,
        bias=sight.bias is not None,
    )
    x = dataclasses.replace(x, mask=sight.mask, bias=sight.bias)
    context = op.core(spec, x.q, x.k, x.v, x.mask, x.bias, dims=(dim(q, 0), dim(q, length_axis)))
    if flat:
        context = op.b.reshape(op.b.transpose(context, 0, 2, 1, 3), 0, 0, q_heads * value_head_dim)
    presents = (None, None) if cache.past is None else (keys, values)
    asked = len(op.node.outputs) > 3 and op.node.outputs[3].name
    return [op.returned(context, q), *presents, op.returned(_scores(op, spec, x), q) if asked else None]


def _heads(op: Operator, value: ir.Value, attribute: str) -> int:
    if op.rank(value) == 4:
        return op.fixed(value, 1)
    heads = op.attribute(attribute)
    if not heads:
        raise op.error(f"{value.name!r} has 3 axes, so the attribute {attribute} must say how many heads it holds")
    return int(heads)


def _split(op: Operator, value: ir.Value, heads: int) -> ir.Value:
    """(B, length, heads * size) -> (B, heads, length, size); four axes stay."""
    if op.rank(value) == 4:
        return value
    return op.b.transpose(op.b.reshape(value, 0, 0, heads, -1), 0, 2, 1, 3)


def _with_past(op: Operator, new: ir.Value, past: ir.Value | None) -> ir.Value:
    return new if past is None else op.b.op("Concat", past, new, axis=2)


def _in_single(op: Operator, value: ir.Value, source: ir.Value) -> ir.Value:
    """`value`, made from `source` by moving it, in float32."""
    value.type = source.type
    return op.single(value)


def _scores(op: Operator, spec: AttentionSpec, x: Operands) -> ir.Value:
    """qk_matmul_output, computed a second time beside the node: no fused form gives it away. (B, H, S, T)."""
    b, mode = op.b, op.attribute("qk_matmul_output_mode", 0)
    core = Core(spec)
    k = repeat_heads(b, x.k, spec)
    scores = scaled_scores(b, spec if mode >= AFTER_CAP else dataclasses.replace(spec, softcap=None), x.q, k)
    if mode == AFTER_SOFTMAX:
        shown = visibility(b, core, x)
        return shown.guard(b, weigh(b, spec, scores, shown, x))
    if mode == AFTER_MASK:
        scores = scores if x.bias is None else b.op("Add", scores, x.bias)
        shown_keys = seen(b, core, x, spec.pattern)
        return scores if shown_keys is None else b.op("Where", shown_keys, scores, b.number(-np.inf))
    return scores
