"""A custom operator's body: a function of standard operators, from an onnxscript function or a callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import OnnxFunction

from edgeattn.errors import UsageError
from edgeattn.exporters.graph import IR_VERSION, Builder

OPSET = 18
"""ai.onnx opset of bodies, that of canonical models."""
_VALUE_ATTRIBUTES = {
    ir.AttributeType.FLOAT: "value_float",
    ir.AttributeType.FLOATS: "value_floats",
    ir.AttributeType.INT: "value_int",
    ir.AttributeType.INTS: "value_ints",
    ir.AttributeType.STRING: "value_string",
}
"""The attribute of `Constant` that holds a value of each type."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a node takes and gives: names of its inputs, its attributes with their types, how many outputs."""

    inputs: tuple[str, ...]
    attributes: Mapping[str, ir.AttributeType]
    outputs: int


def body_function(domain: str, name: str, body: OnnxFunction | Callable[..., Any], parameters: Parameters) -> ir.Function:
    """The function `domain::name` that computes `body`, in standard operators of opset 18.

    Raises:
        UsageError: it takes or gives something else than `parameters`, or uses operators that are not standard.
    """
    graph = _scripted(body) if isinstance(body, OnnxFunction) else _recorded(f"{domain}::{name}", body, parameters)
    declared = body.function_ir.attributes if isinstance(body, OnnxFunction) else parameters.attributes
    _check(f"{domain}::{name}", graph, set(declared), parameters)
    # no default: a node always has every attribute, and not every runtime fills in what a function declares
    attributes = [ir.Attr(key, kind, None) for key, kind in parameters.attributes.items()]
    return ir.Function(domain, name, graph=graph, attributes=attributes)


def _scripted(body: OnnxFunction) -> ir.Graph:
    function: ir.Function = ir.from_proto(body.to_function_proto())
    return function.graph


def _recorded(label: str, body: Callable[..., Any], parameters: Parameters) -> ir.Graph:
    b = Builder()
    inputs = [ir.val(name) for name in parameters.inputs]
    attributes = {name: _attribute_value(b, name, kind) for name, kind in parameters.attributes.items()}
    result = body(b, *inputs, **attributes)
    outputs = list(result) if isinstance(result, Sequence) else [result]
    if not all(isinstance(value, ir.Value) for value in outputs):
        raise UsageError(f"{label}: the body returned {result!r:.80}; expected values that its builder recorded")
    passed_on = set(inputs)
    for i, value in enumerate(outputs):
        if value in passed_on:  # an output of a function is a value of its own
            outputs[i] = value = b.op("Identity", value)
        passed_on.add(value)
    graph = ir.Graph(inputs, outputs, nodes=b.nodes, opset_imports={"": OPSET})
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.NameFixPass())(ir.Model(graph, ir_version=IR_VERSION))
    return graph


def _attribute_value(b: Builder, name: str, kind: ir.AttributeType) -> ir.Value:
    """A constant that holds what the node's attribute says."""
    holder: dict[str, Any] = {_VALUE_ATTRIBUTES[kind]: ir.RefAttr(_VALUE_ATTRIBUTES[kind], name, kind)}
    return b.op("Constant", **holder)


def _check(label: str, graph: ir.Graph, attributes: set[str], parameters: Parameters) -> None:
    if len(graph.inputs) != len(parameters.inputs) or len(graph.outputs) != parameters.outputs:
        raise UsageError(
            f"{label}: the body has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; the operator has "
            f"{len(parameters.inputs)} ({', '.join(parameters.inputs)}) and {parameters.outputs}"
        )
    if strange := sorted(attributes ^ set(parameters.attributes)):
        known = ", ".join(parameters.attributes) or "none"
        raise UsageError(f"{label}: attribute {strange[0]!r} is not one of both, body and operator; the operator has: {known}")
    if foreign := sorted({f"{node.domain}::{node.op_type}" for node in graph.all_nodes() if node.domain}):
        raise UsageError(f"{label}: the body uses {foreign[0]}; expected operators of ai.onnx alone")
    if graph.opset_imports.get("", OPSET) != OPSET:
        raise UsageError(
            f"{label}: the body is written in opset {graph.opset_imports['']}; expected {OPSET}: `from onnxscript import opset18`"
        )
