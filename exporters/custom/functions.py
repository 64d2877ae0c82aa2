"""Custom operators' functions in a model for one target: kept where the runtime takes functions, inlined elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import version_converter

from edgeattn.errors import LoweringError
from edgeattn.exporters.sites import DOMAIN

_STAND_INS: dict[ir.AttributeType, Any] = {
    ir.AttributeType.FLOAT: 1.0,
    ir.AttributeType.FLOATS: [1.0],
    ir.AttributeType.INT: 1,
    ir.AttributeType.INTS: [1],
    ir.AttributeType.STRING: "",
}


def inline_functions(model: ir.Model) -> None:
    """Write each custom operator as its body, in place. Canonical attention stays, since a lowering writes it."""
    if any(function.domain != DOMAIN for function in model.functions.values()):
        common.InlinePass(criteria=lambda function: function.domain != DOMAIN)(model)


def convert_version(model: ir.Model, opset: int) -> None:
    """Take the graph and its functions to a later ai.onnx opset, in place.

    The converter by itself would inline the functions, and it takes no attributes that refer to those of a function.

    Raises:
        LoweringError: a body that cannot be said in that opset.
    """
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    functions = list(model.functions.values())
    model.functions.clear()
    version_converter.convert_version(model, opset)
    for function in functions:
        with _without_references(function):
            version_converter.convert_version(ir.Model(function.graph, ir_version=model.ir_version), opset)
        model.functions[function.identifier()] = function


@contextmanager
def _without_references(function: ir.Function) -> Iterator[None]:
    """Plain values in place of the attributes that refer to the function's own."""
    references = [(node, attr) for node in function.all_nodes() for attr in node.attributes.values() if attr.is_ref()]
    for node, attr in references:
        node.attributes[attr.name] = ir.Attr(attr.name, attr.type, _STAND_INS[attr.type])
    yield
    left = set(function.all_nodes())
    for node, attr in references:
        if node not in left:
            raise LoweringError(
                f"{function.domain}::{function.name}: {node.op_type} of its body takes an attribute of the operator, and "
                f"opset {function.opset_imports['']} has {node.op_type} in another form; write it with other operators"
            )
        node.attributes[attr.name] = attr
