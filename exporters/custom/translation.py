"""How a custom operator of a torch.export program becomes its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnxscript.values import Op, Opset

from edgeattn.errors import CaptureError
from edgeattn.exporters.custom.operator import CustomOperator

_AttrType = onnx.defs.OpSchema.AttrType
_ATTRIBUTES = {
    ir.AttributeType.FLOAT: _AttrType.FLOAT,
    ir.AttributeType.FLOATS: _AttrType.FLOATS,
    ir.AttributeType.INT: _AttrType.INT,
    ir.AttributeType.INTS: _AttrType.INTS,
    ir.AttributeType.STRING: _AttrType.STRING,
}

_TENSORS = [
    kind for kind in onnx.defs.get_schema("Identity").type_constraints[0].allowed_type_strs if kind.startswith("tensor")
]


def translation(custom: CustomOperator) -> Callable[..., Any]:
    """A function of the torch operator's arguments that writes the node. torch's exporter inlines functions, so the node
    is opaque; its body comes later."""
    operator = _opaque(custom)

    def translate(*args: Any, **kwargs: Any) -> Any:
        tensors, attributes = _bound(custom, args, kwargs)
        return operator(*tensors, **attributes)

    return translate


def _opaque(custom: CustomOperator) -> Op:
    """The operator as torch's exporter wants it: with a schema; each tensor may be of any type."""
    parameters = custom.parameters()
    places = [*parameters.inputs, *(f"output_{i}" for i in range(parameters.outputs))]
    formal = [onnx.defs.OpSchema.FormalParameter(name, f"T{i}") for i, name in enumerate(places)]
    schema = onnx.defs.OpSchema(
        custom.name,
        custom.domain,
        custom.version,
        inputs=formal[: len(parameters.inputs)],
        outputs=formal[len(parameters.inputs) :],
        type_constraints=[(f"T{i}", _TENSORS, "") for i in range(len(places))],
        attributes=[onnx.defs.OpSchema.Attribute(name, _ATTRIBUTES[kind]) for name, kind in parameters.attributes.items()],
    )
    return Op(Opset(custom.domain, custom.version), custom.name, schema)


def _bound(custom: CustomOperator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Inputs in order, and every attribute by its name: an exported program leaves out what equals its default."""
    arguments = custom.overload._schema.arguments
    given = {**dict(zip((a.name for a in arguments if not a.kwarg_only), args, strict=False)), **kwargs}
    inputs = custom.parameters().inputs
    attributes = {}
    for argument in arguments:
        if argument.name not in inputs:
            value = given.get(argument.name, argument.default_value)
            attributes[custom.attributes.get(argument.name, argument.name)] = _constant(custom, argument.name, value)
    return [given[name] for name in inputs], attributes


def _constant(custom: CustomOperator, name: str, value: Any) -> Any:
    """An attribute's value; a bool is a number there."""
    if value is None:
        raise CaptureError(f"{custom.label}: argument {name!r} is None, and an attribute has to have a value; pass one")
    if isinstance(value, list | tuple):
        return [_constant(custom, name, item) for item in value]
    if not isinstance(value, str | int | float):
        raise CaptureError(
            f"{custom.label}: argument {name!r} depends on the size of an input, and an attribute is a constant; "
            "pass it as a tensor, or take it from a shape inside the operator"
        )
    return int(value) if isinstance(value, bool) else value
