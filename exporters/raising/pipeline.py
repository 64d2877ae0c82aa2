"""A model with the standard's own attention operators as a canonical model."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from edgeattn.errors import SpecError
from edgeattn.exporters.canonical import canonicalize
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.attention import raise_onnx_attention
from edgeattn.exporters.raising.base import Operator
from edgeattn.exporters.raising.flex import raise_flex_attention
from edgeattn.exporters.raising.opset import to_canonical_opset
from edgeattn.exporters.raising.rotary import raise_rotary

PREVIEW = "ai.onnx.preview"

Raiser = Callable[[Operator], list[ir.Value | None]]
"""Records what replaces a node, and returns a value per output; None for one that it does not have."""

_RAISERS: dict[tuple[str, str], Raiser] = {
    ("", "Attention"): raise_onnx_attention,
    ("", "RotaryEmbedding"): raise_rotary,
    (PREVIEW, "FlexAttention"): raise_flex_attention,
}


def raise_attention(model: ir.Model) -> None:
    """Turn `Attention`, `FlexAttention` and `RotaryEmbedding` of the main graph into canonical form, in place.

    Attention becomes a canonical node, with standard operators around it for what a spec does not say (a past, three
    axes, narrow floats); a rotary embedding becomes standard operators. All else is taken back to opset 18.

    Raises:
        RaisingError: an operator that has no canonical form. The model is then half raised: keep a copy.
    """
    opset = model.graph.opset_imports[""]
    common.ShapeInferencePass()(model)
    for index, node in enumerate(list(model.graph)):
        if raiser := _RAISERS.get((node.domain, node.op_type)):
            _raise(model.graph, Operator(Builder(), node, opset), raiser, node.name or f"{node.op_type}_{index}")
    model.graph.opset_imports.pop(PREVIEW, None)
    to_canonical_opset(model)
    canonicalize(model)
    common.NameFixPass()(model)
    common.ShapeInferencePass()(model)


def _raise(graph: ir.Graph, op: Operator, raiser: Raiser, name: str) -> None:
    try:
        results = raiser(op)
    except SpecError as error:
        raise op.error(str(error)) from error
    for old, new in zip(op.node.outputs, results, strict=False):
        if new is None:
            if old.name:
                raise op.error(f"the output {old.name!r} needs inputs that are not there")
            continue
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for count, node in enumerate(op.b.nodes):
        node.name = node.name or f"{name}_{count}"
    graph.insert_before(op.node, list(op.b.nodes))
    graph.remove(op.node, safe=True)
