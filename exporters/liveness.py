"""The most memory that a graph's values take at once, by their lives: from the node that makes one to the last that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgeattn.errors import CaptureError
from edgeattn.exporters.sites import DOMAIN, module_path

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})
"""Another shape of the same memory."""
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
     "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Softmax",
     "Softplus", "Sqrt", "Sub", "Tanh", "Where"}
)  # fmt: skip
"""What may write its result over an operand of the same size that nobody reads again."""

Scratch = Callable[[ir.Node], int]
"""Bytes that a node holds beside its inputs and outputs."""


@dataclass(frozen=True, slots=True)
class Peak:
    """`bytes` at once, of which `scratch` are inside the node that is running; `at` says which, by its module where known."""

    bytes: int
    scratch: int
    at: str


class _Memory:
    """What a value lies in, and how long it is needed: until the node of that number has run."""

    def __init__(self, size: int, last: int) -> None:
        self.size = size
        self.last = last


def peak(model: ir.Model, float_bytes: int, scratch: Scratch) -> Peak:
    """The largest sum, over all nodes, of the values alive there and the node's scratch. Weights are not values.

    Inputs and outputs live as long as a run; shapes and other views cost nothing; elementwise results reuse an operand.

    Raises:
        CaptureError: a value has no literal shape.
    """
    nodes = list(model.graph)
    last = _last_uses(model.graph, nodes)
    places = {value: _Memory(_bytes(value, float_bytes), len(nodes)) for value in model.graph.inputs}
    live = sum(memory.size for memory in places.values())
    most = Peak(live, 0, "the inputs")
    for number, node in enumerate(nodes):
        for value in node.outputs:
            memory = _reused(node, value, places, number, float_bytes)
            if memory is None:
                memory = _Memory(_bytes(value, float_bytes), number)
                live += memory.size
            memory.last = max(memory.last, last.get(value, number))
            places[value] = memory
        inside = scratch(node)
        if live + inside > most.bytes:
            most = Peak(live + inside, inside, _describe(node))
        for memory in {id(places[v]): places[v] for v in (*node.inputs, *node.outputs) if v in places}.values():
            if memory.last == number:
                live -= memory.size
                memory.size = 0
    return most


def _describe(node: ir.Node) -> str:
    kind = "attention" if node.domain == DOMAIN else node.op_type
    return f"{kind} {node.name}" + (f" of {module_path(node)}" if module_path(node) else "")


def _reused(node: ir.Node, value: ir.Value, places: dict[ir.Value, _Memory], number: int, float_bytes: int) -> _Memory | None:
    """The memory of an operand that the result takes over, if it does."""
    if node.domain != "" or len(node.outputs) != 1:
        return None
    if node.op_type in _VIEWS:
        return None if node.inputs[0] is None else places.get(node.inputs[0])
    if node.op_type not in _ELEMENTWISE:
        return None
    operands = [places[v] for v in node.inputs if v is not None and v in places]
    size = _bytes(value, float_bytes)
    return next((memory for memory in operands if memory.last == number and memory.size == size), None)


def _last_uses(graph: ir.Graph, nodes: list[ir.Node]) -> dict[ir.Value, int]:
    last = {value: number for number, node in enumerate(nodes) for value in node.inputs if value is not None}
    return last | dict.fromkeys(graph.outputs, len(nodes))


def _bytes(value: ir.Value, float_bytes: int) -> int:
    if value.shape is None or not value.shape.is_static() or value.dtype is None:
        if not value.name:
            return 0
        raise CaptureError(
            f"the size of {value.name!r} does not follow from the sizes of the inputs, so it cannot be estimated"
        )
    each = float_bytes if value.dtype.is_floating_point() else value.dtype.itemsize
    return math.ceil(math.prod(value.shape.numpy()) * each)
