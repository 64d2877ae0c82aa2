"""A model with attention of any known form, operators or written out, as a canonical model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeattn.errors import SpecError
from edgeattn.exporters.canonical import canonicalize
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising import contrib, contrib_layers, newer
from edgeattn.exporters.raising.attention import raise_onnx_attention
from edgeattn.exporters.raising.base import Operator
from edgeattn.exporters.raising.einsum import write_products
from edgeattn.exporters.raising.flex import raise_flex_attention
from edgeattn.exporters.raising.heads import share_heads
from edgeattn.exporters.raising.opset import to_canonical_opset
from edgeattn.exporters.raising.patterns import raise_patterns
from edgeattn.exporters.raising.rotary import raise_rotary
from edgeattn.exporters.raising.specify import specify_masks
from edgeattn.exporters.sites import DOMAIN

PREVIEW = "ai.onnx.preview"
CONTRIB = "com.microsoft"

FORM_KEY = "edgeattn.form"
"""Metadata of a site raised from a file: the form that it had there."""
WRITTEN_OUT = "MatMul, Softmax, MatMul"

Raiser = Callable[[Operator], list[ir.Value | None]]
"""Records what replaces a node, and returns a value per output; None for one that it does not have."""

_RAISERS: dict[tuple[str, str], Raiser] = {
    ("", "Attention"): raise_onnx_attention,
    ("", "RotaryEmbedding"): raise_rotary,
    (PREVIEW, "FlexAttention"): raise_flex_attention,
}
_FOREIGN: dict[tuple[str, str], Raiser] = {
    **_RAISERS,
    ("", "Gelu"): newer.raise_gelu,
    ("", "RMSNormalization"): newer.raise_rms_normalization,
    ("", "SimplifiedLayerNormalization"): contrib_layers.raise_simplified_layer_normalization,
    ("", "Swish"): newer.raise_swish,
    (CONTRIB, "Attention"): contrib.raise_contrib_attention,
    (CONTRIB, "BiasGelu"): contrib_layers.raise_bias_gelu,
    (CONTRIB, "EmbedLayerNormalization"): contrib_layers.raise_embed_layer_normalization,
    (CONTRIB, "FastGelu"): contrib_layers.raise_fast_gelu,
    (CONTRIB, "FusedMatMul"): contrib_layers.raise_fused_matmul,
    (CONTRIB, "Gelu"): contrib_layers.raise_contrib_gelu,
    (CONTRIB, "GroupQueryAttention"): contrib.raise_group_query_attention,
    (CONTRIB, "MultiHeadAttention"): contrib.raise_multi_head_attention,
    (CONTRIB, "QuickGelu"): contrib_layers.raise_quick_gelu,
    (CONTRIB, "SkipLayerNormalization"): contrib_layers.raise_skip_layer_normalization,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): contrib_layers.raise_skip_simplified_layer_normalization,
}
"""What files of other exporters hold besides."""


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


def raise_written(model: ir.Model) -> None:
    """Turn attention written out in a captured model into captured nodes, in place; what stays is for `unraised` to name."""
    if not any(node.op_type == "Softmax" for node in model.graph):
        return
    common.RemoveUnusedNodesPass()(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    write_products(model)
    if raised := raise_patterns(model):
        common.NameFixPass()(model)
        share_heads(model)
        specify_masks(model, raised)


def is_known(node: ir.Node) -> bool:
    """Whether `raise_model` can write the operator, or leaves it as it is: one of ai.onnx."""
    if (node.domain, node.op_type) in _FOREIGN:
        return True
    return node.domain == "" and onnx.defs.has(node.op_type)


def raise_model(model: ir.Model) -> None:
    """Turn everything that is known to be attention, operator or written out, into canonical form, in place.

    Operators of com.microsoft and newer ones than opset 18 are written in those of opset 18. Requires shapes, and constants
    as initializers.

    Raises:
        RaisingError: an operator that has no canonical form. The model is then half raised.
    """
    common.RemoveUnusedNodesPass()(model)
    opset = model.graph.opset_imports[""]
    for index, node in enumerate(list(model.graph)):
        if raiser := _FOREIGN.get((node.domain, node.op_type)):
            node.metadata_props[FORM_KEY] = f"{node.domain or 'ai.onnx'} {node.op_type}"
            _raise(model.graph, Operator(Builder(), node, opset), raiser, node.name or f"{node.op_type}_{index}")
    model.graph.opset_imports[DOMAIN] = 1
    common.NameFixPass()(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    write_products(model)
    for node in raise_patterns(model):
        node.metadata_props[FORM_KEY] = WRITTEN_OUT
    common.NameFixPass()(model)
    share_heads(model)
    specify_masks(model)
    common.RemoveUnusedNodesPass()(model)
    for domain in (PREVIEW, CONTRIB):
        if not any(node.domain == domain for node in model.graph.all_nodes()):
            model.graph.opset_imports.pop(domain, None)
    to_canonical_opset(model)
    canonicalize(model)
    common.NameFixPass()(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _raise(graph: ir.Graph, op: Operator, raiser: Raiser, name: str) -> None:
    try:
        results = raiser(op)
    except SpecError as error:
        raise op.error(str(error)) from error
    for old, new in itertools.zip_longest(op.node.outputs, results[: len(op.node.outputs)]):
        if new is None:
            if old.uses() or old.is_graph_output():
                raise op.error(f"nothing is known of its output {old.name!r}, or that needs inputs that are not there")
            continue
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for count, node in enumerate(op.b.nodes):
        node.name = name if node.domain == DOMAIN else f"{name}_{count}"
        node.metadata_props.update(op.node.metadata_props)
        if node.domain != DOMAIN:
            node.metadata_props.pop(FORM_KEY, None)
    graph.insert_before(op.node, list(op.b.nodes))
    graph.remove(op.node, safe=True)
