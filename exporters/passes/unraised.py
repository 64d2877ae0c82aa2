"""Attention that no site covers: a softmax of a product that multiplies again, outside every canonical node."""

from __future__ import annotations

from collections import deque

import onnx_ir as ir

from edgeattn.exporters.sites import module_path

_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_FUSED = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
_BETWEEN = frozenset(
    {"Add", "Mul", "Div", "Sub", "Neg", "Where", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Tanh", "Clip",
     "Max", "Min", "Dropout", "Identity", "IsNaN", "Slice", "Concat", "Not", "Or", "And"}
)  # fmt: skip
"""What may stand between a product and its softmax: scale, mask, cap, guards, layout."""


def unraised(model: ir.Model) -> list[str]:
    """The PyTorch modules (or node names) of the attention that was missed, one entry per softmax."""
    missed = [node for node in model.graph if _is_fused(node) or (node.op_type == "Softmax" and _is_attention(node))]
    return [module_path(node) or node.name or node.op_type for node in missed]


def _is_fused(node: ir.Node) -> bool:
    return node.op_type in _FUSED and node.domain in ("", "com.microsoft")


def _is_attention(softmax: ir.Node) -> bool:
    return _reaches(softmax, backward=True) and _reaches(softmax, backward=False)


def _reaches(start: ir.Node, backward: bool) -> bool:
    """Whether a product of two computed values is reached through elementwise and layout operators alone."""
    queue, seen = deque(_neighbours(start, backward)), {start}
    while queue:
        node = queue.popleft()
        if node in seen:
            continue
        seen.add(node)
        if node.op_type in _PRODUCTS and all(v is not None and v.const_value is None for v in node.inputs[:2]):
            return True
        if node.op_type in _BETWEEN:
            queue.extend(_neighbours(node, backward))
    return False


def _neighbours(node: ir.Node, backward: bool) -> list[ir.Node]:
    if backward:
        producers = (value.producer() for value in node.inputs if value is not None)
        return [producer for producer in producers if producer is not None]
    return [use.node for value in node.outputs for use in value.uses()]
