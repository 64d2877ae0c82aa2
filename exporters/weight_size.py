"""How many bytes a model's weights take in each precision."""

from __future__ import annotations

import math

import onnx_ir as ir

PRECISIONS = ("fp32", "fp16", "int8", "int4")
BLOCK = 32
"""Weights that share a scale and a zero point in int4."""
_SCALE = 4
"""Bytes of a scale, a float32."""


def weight_size(model: ir.Model, precision: str) -> int:
    """Bytes of the weights of `model`, each counted once however many nodes read it.

    In fp16 every float takes 2 bytes. In int8 and int4 only matrices do that are read by products alone: in int8 with a scale
    for each output channel, in int4 with a scale and a zero point of 4 bits for each BLOCK of inputs. Embeddings, norms and biases
    stay in float32 there, whole numbers as they are everywhere.
    """
    return sum(_size(value, precision) for value in model.graph.initializers.values())


def _size(value: ir.Value, precision: str) -> int:
    tensor = value.const_value
    if tensor is None:
        return 0
    if not tensor.dtype.is_floating_point():
        return tensor.nbytes
    if precision == "fp16":
        return 2 * tensor.size
    if precision == "fp32" or not _is_matrix(value):
        return 4 * tensor.size
    rows, columns = (int(size) for size in tensor.shape.numpy()[-2:])
    if precision == "int8":
        return tensor.size + columns * _SCALE
    blocks = math.ceil(rows / BLOCK) * columns
    return math.ceil(blocks * (BLOCK / 2 + _SCALE + 0.5))


def _is_matrix(value: ir.Value) -> bool:
    """Whether it is the second factor of every node that reads it, and has two axes."""
    uses = value.uses()
    products = all(use.node.op_type in ("MatMul", "Gemm") and use.idx == 1 for use in uses)
    return bool(uses) and products and value.const_value is not None and len(value.const_value.shape) == 2
