"""What raising an operator needs: its inputs and attributes by name, an error that says what is in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.canonical import CAPTURED_OP, SPEC_ATTRIBUTE
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.sites import DOMAIN
from edgeattn.spec import AttentionSpec, to_json

Dim = int | str | None
"""A size, the name of one, or neither."""

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class RaisingError(EdgeAttnError):
    """An operator that has no canonical form, or whose graph does not say enough to give it one."""


@dataclass(frozen=True, slots=True)
class Operator:
    """The node to be raised, and the builder that records what replaces it. `opset` is the model's."""

    b: Builder
    node: ir.Node
    opset: int

    def input(self, index: int) -> ir.Value | None:
        """An optional input; None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def operand(self, index: int) -> ir.Value:
        """An input that must be there. Raises RaisingError."""
        value = self.input(index)
        if value is None:
            raise self.error(f"input {index} is missing")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def rank(self, value: ir.Value) -> int:
        """The number of axes. Raises RaisingError where the graph does not know it."""
        if value.shape is None:
            raise self.error(f"the graph does not know how many axes {value.name!r} has; declare the shapes of its inputs")
        return len(value.shape)

    def fixed(self, value: ir.Value, axis: int) -> int:
        """A size that must be a number. Raises RaisingError."""
        size = dim(value, axis) if self.rank(value) > axis else None
        if not isinstance(size, int):
            raise self.error(f"axis {axis} of {value.name!r} must have a fixed size, got {size}: a canonical node names it")
        return size

    def single(self, value: ir.Value) -> ir.Value:
        """`value` in float32, the type that every form is proven in. Raises RaisingError for float64, which would lose."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        if value.dtype not in _NARROW:
            raise self.error(f"{value.name!r} is {value.dtype}; expected float32, float16 or bfloat16, which float32 can hold")
        wide = self.b.op("Cast", value, to=ir.DataType.FLOAT)
        wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        return wide

    def returned(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """`value` in the type of `like`."""
        return value if like.dtype == ir.DataType.FLOAT else self.b.op("Cast", value, to=like.dtype)

    def core(self, spec: AttentionSpec, *inputs: ir.Value | None, dims: tuple[Dim, Dim]) -> ir.Value:
        """The attention itself; `dims` are batch and query length. (B, H, S, E)."""
        context = self.b.op(CAPTURED_OP, *inputs, domain=DOMAIN, **{SPEC_ATTRIBUTE: to_json(spec)})
        context.type = ir.TensorType(ir.DataType.FLOAT)
        context.shape = ir.Shape([dims[0], spec.q_heads, dims[1], spec.value_head_dim])
        return context

    def error(self, reason: str) -> RaisingError:
        """An error that names the node."""
        return RaisingError(f"{self.node.op_type} {self.node.name or '(unnamed)'} has no canonical form: {reason}")


def dim(value: ir.Value, axis: int) -> Dim:
    """A size or its name; None where neither is known."""
    if value.shape is None:
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else size.value


def dims(value: ir.Value | None) -> list[Dim]:
    """Every size or its name; empty where the graph does not know how many axes there are, or there is no value."""
    return [] if value is None else [dim(value, axis) for axis in range(len(value.shape or ()))]
