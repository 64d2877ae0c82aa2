"""The canonical form: one node of domain `edgeattn` per attention core, its body an ONNX function of standard operators.

A function body cannot branch on attributes, so each distinct spec has a function of its own, named by the spec's hash.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.passes.zero_bias import without_zero_bias
from edgeattn.exporters.sites import DOMAIN, SPEC_KEY, find_sites
from edgeattn.spec import AttentionSpec, from_json, function_name, to_json

OPSET = 18
"""ai.onnx opset of canonical and portable models."""
CAPTURED_OP = "Attention"
CAPTURED_PARTIAL_OP = "PartialAttention"
SPEC_ATTRIBUTE = "spec"


def canonicalize(model: ir.Model) -> None:
    """Turn captured `edgeattn.Attention(spec=...)` and `PartialAttention` nodes into `Attention_<hash>` and attach their bodies, in place."""
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in (CAPTURED_OP, CAPTURED_PARTIAL_OP):
            spec = from_json(node.attributes[SPEC_ATTRIBUTE].as_string())
            spec, given = without_zero_bias(spec, node.inputs)
            # the slot of an absent optional input must go: a canonical node has exactly the spec's inputs
            inputs = [value for value in given if value is not None]
            _replace(node, canonical_node(spec, inputs, name=node.name))
    for site in find_sites(model):
        body = function_body(site.spec, site.operands.q.dtype or ir.DataType.FLOAT)
        model.functions[body.identifier()] = body
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = IR_VERSION


def canonical_node(spec: AttentionSpec, inputs: list[ir.Value], name: str | None = None) -> ir.Node:
    """One canonical node with its readable spec in the metadata."""
    node = ir.node(function_name(spec), inputs, domain=DOMAIN, name=name, num_outputs=len(spec.output_names))
    node.metadata_props[SPEC_KEY] = to_json(spec)
    return node


def function_body(spec: AttentionSpec, dtype: ir.DataType) -> ir.Function:
    """The portable meaning of a canonical node."""
    inputs = [ir.val(name) for name in spec.input_names]
    b = Builder(dtype)
    outputs = Decomposed().outputs(b, Core(spec), Operands.of(spec, inputs))
    graph = ir.Graph(inputs, outputs, nodes=b.nodes, opset_imports={"": OPSET})
    ir.passes.common.NameFixPass()(ir.Model(graph, ir_version=IR_VERSION))
    return ir.Function(DOMAIN, function_name(spec), graph=graph, attributes=[])


def _replace(old: ir.Node, new: ir.Node) -> None:
    new.metadata_props.update(old.metadata_props)
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, [new])
    for source, target in zip(old.outputs, new.outputs, strict=True):
        target.name, target.shape, target.type = source.name, source.shape, source.type
        ir.convenience.replace_all_uses_with(source, target, replace_graph_outputs=True)
    graph.remove(old, safe=True)
