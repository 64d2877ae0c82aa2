"""What is left of a raised model, taken back to the opset of canonical models."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgeattn.exporters.canonical import OPSET
from edgeattn.exporters.raising.base import RaisingError

_MORE_TYPES = frozenset(
    {"Cast", "CastLike", "Constant", "ConstantOfShape", "Equal", "Flatten", "Identity", "If", "IsNaN", "Loop", "Pad", "Range",
     "ReduceMax", "ReduceMin", "Reshape", "Scan", "Shape", "Size", "Squeeze", "TopK", "Transpose", "Unsqueeze",
     # bfloat16, in opset 22
     "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Conv", "ConvTranspose", "Cos", "Cosh", "Dropout", "Elu", "EyeLike",
     "GRU", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "InstanceNormalization", "LSTM",
     "LpNormalization", "Mish", "RNN", "Round", "Selu", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "ThresholdedRelu"}
)  # fmt: skip
"""Operators whose later versions only accept more types (or bring attributes, which are looked for)."""


def to_canonical_opset(model: ir.Model) -> None:
    """Declare opset 18 for a model whose operators all mean the same there, in place.

    Raises:
        RaisingError: one of them does not exist in opset 18, or means something else.
    """
    current = model.graph.opset_imports[""]
    if current > OPSET:
        for node in model.graph.all_nodes():
            if node.domain == "" and (reason := _differs(node, current)):
                raise RaisingError(f"{node.op_type} of opset {current} cannot be written in opset {OPSET}: {reason}")
    model.graph.opset_imports[""] = OPSET


def _differs(node: ir.Node, current: int) -> str | None:
    now = onnx.defs.get_schema(node.op_type, current)
    try:
        then = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError:
        return "it did not exist"
    if now.since_version == then.since_version:
        return None
    if node.op_type not in _MORE_TYPES:
        return f"it changed in opset {now.since_version}"
    strange = sorted(set(node.attributes) - set(then.attributes))
    return f"the attribute {strange[0]} is newer" if strange else None
