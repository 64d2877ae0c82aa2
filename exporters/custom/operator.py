"""`CustomOperator`: a user's own torch operator, the ONNX node it becomes, and the portable meaning of that node."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir
from onnxscript import OnnxFunction
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from edgeattn.bundle.folder import ALLOWED_DOMAINS
from edgeattn.errors import UsageError
from edgeattn.exporters.custom.body import Parameters, body_function

_DOMAIN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_RESERVED = re.compile(r"(ai\.onnx|com\.microsoft)(\..*)?")
_TENSOR = "Tensor"
_ATTRIBUTE_TYPES = {
    "float": ir.AttributeType.FLOAT,
    "int": ir.AttributeType.INT,
    "bool": ir.AttributeType.INT,
    "str": ir.AttributeType.STRING,
    "List[float]": ir.AttributeType.FLOATS,
    "List[int]": ir.AttributeType.INTS,
}
"""Type of a torch argument -> type of the attribute; an optional one is of the same type, and must be given."""

Body: TypeAlias = OnnxFunction | Callable[..., ir.Value | Sequence[ir.Value]]


@dataclass(frozen=True, slots=True)
class CustomOperator:
    """A torch operator that is exported as ONE node `domain::name`, with `body` as the node's function in the file.

    A runtime that has a native kernel for the node uses it; any other computes the body, from the same file. So the body
    has to be the same maths as the torch operator, which the export's gate proves.

    Args:
        operator: what `torch.library.custom_op` returned, or `torch.ops.namespace.name` (its `default` overload, unless
            one is named). It needs a fake kernel (`register_fake`): shapes and dynamic sizes come from there. It changes
            no input. Its tensors become the node's inputs and outputs; its other arguments, attributes.
        name: operator type of the node, such as "GatedRMSNorm".
        domain: its operator domain, such as "mylib"; a native library registers its kernels under the same one.
        body: the node's meaning in standard operators of opset 18. Either an onnxscript function of opset 18 with the
            operator's tensors as inputs and attributes of the attributes' names, or a callable
            `body(builder, *tensors, **attributes)` that records nodes with `builder.op(...)` (see
            `edgeattn.exporters.graph.Builder`) and returns a value, or one per output. Attributes are values there too: a
            scalar or 1-D tensor; a bool is an int64 of 0 or 1. Either way there is one body, whatever the attributes.
        attributes: torch argument -> name of the attribute, where it is another.
        version: version of the domain that the node is of.

    Raises:
        UsageError: an operator, name, domain or body that cannot be exported; says which and why.
    """

    operator: CustomOpDef | OpOverload[..., Any] | OpOverloadPacket[..., Any]
    name: str
    domain: str
    body: Body
    attributes: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UsageError(f"{self.name!r} is no name for an operator; expected one such as 'GatedRMSNorm'")
        if not _DOMAIN.fullmatch(self.domain) or self.domain in ALLOWED_DOMAINS or _RESERVED.fullmatch(self.domain):
            raise UsageError(
                f"{self.label}: {self.domain!r} is no domain for an operator of one's own; expected a name such as 'mylib', "
                "and none that ONNX, a runtime or edgeattn uses"
            )
        if not isinstance(self.version, int) or self.version < 1:
            raise UsageError(f"{self.label}: the version must be a whole number >= 1, got {self.version!r}")
        self.function()

    @property
    def label(self) -> str:
        """`mylib::GatedRMSNorm`."""
        return f"{self.domain}::{self.name}"

    @property
    def overload(self) -> OpOverload[..., Any]:
        """The overload that stands in an exported program."""
        if isinstance(self.operator, CustomOpDef):
            return self.operator._opoverload
        if isinstance(self.operator, OpOverloadPacket):
            names: list[str] = self.operator.overloads()  # type: ignore[no-untyped-call]
            if names != ["default"]:
                raise UsageError(f"{self.label}: {self.operator} has the overloads {', '.join(names)}; name one of them")
            return self.operator.default
        if not isinstance(self.operator, OpOverload):
            raise UsageError(
                f"{self.label}: operator is a {type(self.operator).__name__}; expected what torch.library.custom_op returned, "
                "or torch.ops.namespace.name"
            )
        return self.operator

    def parameters(self) -> Parameters:
        """The operator's signature as that of an ONNX node. Raises UsageError for one that no node can have."""
        schema = self.overload._schema
        if schema.is_mutable:
            raise UsageError(f"{self.label}: {schema} changes an input, which no ONNX node does; return a new tensor instead")
        inputs, attributes = [], {}
        for argument in schema.arguments:
            kind = str(argument.type)
            if kind == _TENSOR:
                inputs.append(argument.name)
                continue
            kind = kind.removeprefix("Optional[").removesuffix("]") if kind.startswith("Optional[") else kind
            if kind not in _ATTRIBUTE_TYPES:
                raise UsageError(
                    f"{self.label}: argument {argument.name!r} of {schema} is of type {argument.type}; a node takes tensors "
                    f"that are always there, and attributes of type {', '.join(_ATTRIBUTE_TYPES)}"
                )
            attributes[self.attributes.get(argument.name, argument.name)] = _ATTRIBUTE_TYPES[kind]
        if any(str(result.type) != _TENSOR for result in schema.returns) or not schema.returns:
            raise UsageError(f"{self.label}: {schema} has to return tensors")
        others = {argument.name for argument in schema.arguments} - set(inputs)
        if strange := sorted(set(self.attributes) - others):
            raise UsageError(f"{self.label}: attributes names {strange[0]!r}, which {schema} does not take as one")
        return Parameters(tuple(inputs), attributes, len(schema.returns))

    def function(self) -> ir.Function:
        """The body as the node's function. Raises UsageError for one that does not fit the operator."""
        return body_function(self.domain, self.name, self.body, self.parameters())
