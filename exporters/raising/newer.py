"""Operators newer than opset 18, written in those of opset 18."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.base import Operator


def raise_gelu(op: Operator) -> list[ir.Value | None]:
    """`Gelu`-20: x / 2 (1 + erf(x / sqrt 2)), or by tanh where `approximate` says so."""
    return [gelu(op.b, op.operand(0), tanh=op.attribute("approximate", "none") == "tanh")]


def raise_rms_normalization(op: Operator) -> list[ir.Value | None]:
    """`RMSNormalization`-23: x / sqrt(mean(x^2) + epsilon) * scale over the last axes from `axis` on, in float32."""
    x, scale = op.operand(0), op.operand(1)
    axis = op.attribute("axis", -1)
    axes = list(range(axis, 0)) if axis < 0 else list(range(axis, op.rank(x)))
    single = op.single(x)
    return [op.b.op("Mul", op.returned(rms_normalized(op.b, single, axes, op.attribute("epsilon", 1e-5)), x), scale)]


def raise_swish(op: Operator) -> list[ir.Value | None]:
    """`Swish`-24: x sigmoid(alpha x)."""
    b, x, alpha = op.b, op.operand(0), op.attribute("alpha", 1.0)
    inner = x if alpha == 1.0 else b.op("Mul", x, b.op("CastLike", b.number(alpha), x))
    return [b.op("Mul", x, b.op("Sigmoid", inner))]


def gelu(b: Builder, x: ir.Value, tanh: bool = False) -> ir.Value:
    """GELU, in the order in which runtimes recognise it."""

    def number(value: float) -> ir.Value:
        return b.op("CastLike", b.number(value), x) if x.dtype not in (None, ir.DataType.FLOAT) else b.number(value)

    if tanh:
        cube = b.op("Mul", b.op("Pow", x, number(3.0)), number(0.044715))
        inner = b.op("Tanh", b.op("Mul", b.op("Add", x, cube), number(math.sqrt(2 / math.pi))))
    else:
        inner = b.op("Erf", b.op("Div", x, number(math.sqrt(2))))
    return b.op("Mul", b.op("Mul", x, b.op("Add", inner, number(1.0))), number(0.5))


def rms_normalized(b: Builder, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon)."""
    mean = b.op("ReduceMean", b.op("Mul", x, x), b.ints(*axes), keepdims=1)
    return b.op("Div", x, b.op("Sqrt", b.op("Add", mean, b.number(epsilon))))
