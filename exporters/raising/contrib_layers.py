"""com.microsoft operators around attention, as ONNX Runtime's optimizer fuses them, in operators of opset 18."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.raising.base import Operator
from edgeattn.exporters.raising.newer import gelu, rms_normalized


def raise_skip_layer_normalization(op: Operator) -> list[ir.Value | None]:
    """LayerNormalization of input + skip + bias; the fourth output is that sum. Mean and deviation are not given."""
    total = _total(op, bias=4)
    return [_layer_norm(op, total, op.operand(2), op.input(3)), None, None, total]


def raise_skip_simplified_layer_normalization(op: Operator) -> list[ir.Value | None]:
    """The same with a root mean square instead of mean and deviation."""
    total = _total(op, bias=3)
    return [_rms_norm(op, total, op.operand(2)), None, None, total]


def raise_simplified_layer_normalization(op: Operator) -> list[ir.Value | None]:
    """x over its root mean square, times a scale."""
    return [_rms_norm(op, op.operand(0), op.operand(1))]


def raise_embed_layer_normalization(op: Operator) -> list[ir.Value | None]:
    """LayerNormalization of word + position + segment embeddings; then each row's count of real positions, and the sum."""
    b, words = op.b, op.operand(0)
    if (places := op.input(8)) is None:
        length = b.op("Squeeze", b.size(words, 1))
        places = b.op("Unsqueeze", b.op("Range", b.index(0), length, b.index(1)), b.ints(0))
    total = b.op("Add", b.op("Gather", op.operand(2), words), b.op("Gather", op.operand(3), places))
    segments, table = op.input(1), op.input(4)
    if segments is not None and table is not None:
        total = b.op("Add", total, b.op("Gather", table, segments))
    mask = op.input(7)
    count = None if mask is None else b.op("Cast", b.op("ReduceSum", mask, b.ints(1), keepdims=0), to=ir.DataType.INT32)
    return [_layer_norm(op, total, op.operand(5), op.input(6)), count, total]


def raise_bias_gelu(op: Operator) -> list[ir.Value | None]:
    """GELU of x + bias."""
    total = op.b.op("Add", op.operand(0), op.operand(1))
    total.type, total.shape = op.operand(0).type, op.operand(0).shape
    return [gelu(op.b, total)]


def raise_contrib_gelu(op: Operator) -> list[ir.Value | None]:
    """GELU of x."""
    return [gelu(op.b, op.operand(0))]


def raise_fast_gelu(op: Operator) -> list[ir.Value | None]:
    """GELU of x + bias, by tanh."""
    x, bias = op.operand(0), op.input(1)
    total = x if bias is None else op.b.op("Add", x, bias)
    total.type, total.shape = x.type, x.shape
    return [gelu(op.b, total, tanh=True)]


def raise_quick_gelu(op: Operator) -> list[ir.Value | None]:
    """x sigmoid(alpha x)."""
    b, x = op.b, op.operand(0)
    alpha = b.op("CastLike", b.number(float(op.attribute("alpha", 1.702))), x)
    return [b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, alpha)))]


def raise_fused_matmul(op: Operator) -> list[ir.Value | None]:
    """alpha A B, either transposed in its last two axes. Raises RaisingError where batch axes are transposed as well."""
    if op.attribute("transBatchA", 0) or op.attribute("transBatchB", 0):
        raise op.error("it transposes batch axes")
    b = op.b
    factors = [_transposed(op, i) if op.attribute(name, 0) else op.operand(i) for i, name in enumerate(("transA", "transB"))]
    product, alpha = b.op("MatMul", *factors), float(op.attribute("alpha", 1.0))
    return [product if alpha == 1.0 else b.op("Mul", product, b.op("CastLike", b.number(alpha), product))]


def _transposed(op: Operator, index: int) -> ir.Value:
    value = op.operand(index)
    rank = op.rank(value)
    moved = op.b.transpose(value, *range(rank - 2), rank - 1, rank - 2)
    dims = list(value.shape or ())
    moved.type, moved.shape = value.type, ir.Shape([*dims[:-2], dims[-1], dims[-2]])
    return moved


def _total(op: Operator, bias: int) -> ir.Value:
    first = op.operand(0)
    total = op.b.op("Add", first, op.operand(1))
    if (added := op.input(bias)) is not None:
        total = op.b.op("Add", total, added)
    total.type, total.shape = first.type, first.shape
    return total


def _layer_norm(op: Operator, x: ir.Value, scale: ir.Value, bias: ir.Value | None) -> ir.Value:
    inputs = [x, scale] if bias is None else [x, scale, bias]
    return op.b.op("LayerNormalization", *inputs, axis=-1, epsilon=float(op.attribute("epsilon", 1e-12)))


def _rms_norm(op: Operator, x: ir.Value, scale: ir.Value) -> ir.Value:
    epsilon = float(op.attribute("epsilon", 1e-5))
    return op.b.op("Mul", op.returned(rms_normalized(op.b, op.single(x), [-1], epsilon), x), scale)
