"""A model for one choice of its dynamic sizes: literal dimensions everywhere, and what only depended on them computed."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from edgeattn.errors import CaptureError
from edgeattn.exporters.passes.outputs import output_names, separate_outputs

LARGEST = 1 << 20
"""Elements up to which a computed constant, such as a causal mask, is stored; a larger one stays the few nodes that make it."""


def fix_sizes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy of `model` with its dynamic dimensions at `sizes`. Weights are shared, not copied."""
    fixed = model.clone()
    for value in _values(fixed.graph):
        if value.shape is not None:
            value.shape = value.shape.evaluate(sizes)
    fold_sizes(fixed)
    return fixed


def fold_sizes(model: ir.Model) -> None:
    """Compute in place what fixed sizes decide: shapes, positions, masks of patterns. Weights in a file stay there."""
    names = output_names(model)
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=LARGEST,
        output_size_limit=LARGEST,
        should_fold=lambda node: False if any(map(_in_file, node.inputs)) else None,
    )
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=LARGEST),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )(model)
    for node in model.graph:
        _infer_rows(node)
    common.ShapeInferencePass()(model)
    separate_outputs(model, names)


def check_fixed(model: ir.Model) -> None:
    """Raise CaptureError, which names the node, unless every value has a literal shape."""
    for node in model.graph:
        if any(value.name and (value.shape is None or not value.shape.is_static()) for value in node.outputs):
            raise CaptureError(
                f"the size of what {node.op_type} {node.name!r} gives follows from values, not from the sizes of the inputs, "
                "so no graph of fixed sizes can hold it; export the model without --static-shapes, or keep that operator out of it"
            )


def _in_file(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.const_value, ir.ExternalTensor)


def _infer_rows(node: ir.Node) -> None:
    """onnx does not know com.microsoft's attentions: q (B, S, H * D), k and v likewise -> (B, S, H * E)."""
    if node.op_type not in ("MultiHeadAttention", "GroupQueryAttention") or node.domain != "com.microsoft":
        return
    q, v = node.inputs[0], node.inputs[2]
    if q is None or v is None or q.shape is None or v.shape is None or node.outputs[0].shape is not None:
        return
    heads = node.attributes["num_heads"].as_int()
    kept = node.attributes.get("kv_num_heads")
    width = v.shape[2]
    if isinstance(width, int):
        node.outputs[0].shape = ir.Shape([*q.shape[:2], width // (kept.as_int() if kept else heads) * heads])
        node.outputs[0].type = q.type


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
