"""Read each dynamic size once, from the model's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir

_SYMBOL = re.compile(r"[A-Za-z_]\w*")


class ShareDimensions(ir.passes.InPlacePass):
    """`Shape(x)[axis]` where the axis is a dimension of a graph input becomes that input's, so that equal reads merge.

    Also lets intermediate values die that only their shape kept alive. Requires symbolic shapes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        places = _input_dimensions(model.graph)
        modified = False
        for node in model.graph:
            place = places.get(_single_dimension(node) or "")
            if place is None or node.inputs[0] is place[0]:
                continue
            value, axis = place
            node.replace_input_with(0, value)
            node.attributes.update({a.name: a for a in (ir.AttrInt64("start", axis), ir.AttrInt64("end", axis + 1))})
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def rename_dimensions(model: ir.Model, names: Mapping[str, Mapping[int, str]]) -> None:
    """Give dynamic dimensions the user's names, everywhere; `names` maps a graph input to {axis: name}."""
    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in names.get(value.name or "", {}).items():
            dim = value.shape[axis] if value.shape is not None else None
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                renamed[dim.value] = name
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, renamed) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(_SYMBOL.sub(lambda match: names.get(match[0], match[0]), dim.value))


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _input_dimensions(graph: ir.Graph) -> dict[str, tuple[ir.Value, int]]:
    places: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                places.setdefault(dim.value, (value, axis))
    return places


def _single_dimension(node: ir.Node) -> str | None:
    """The symbol that a `Shape` node of exactly one axis reads."""
    if node.op_type != "Shape" or node.domain != "" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    shape = node.inputs[0].shape
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
    if end - start != 1:
        return None
    dim = shape[start]
    return None if isinstance(dim, int) else dim.value
