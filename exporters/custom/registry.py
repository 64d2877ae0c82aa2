"""The custom operators of this process, as torch's own registry of operators is one of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from edgeattn.errors import UsageError
from edgeattn.exporters.custom.operator import CustomOperator
from edgeattn.exporters.custom.translation import translation

_REGISTERED: dict[str, CustomOperator] = {}
"""By the torch operator's qualified name."""


def register_custom_operator(custom: CustomOperator) -> CustomOperator:
    """Let exports of this process write a torch operator as its node; call it where the operator is defined.

    A factory file does so at module level, below its `torch.library.custom_op`. Registering an operator again replaces
    what was registered, as when a file is read again.

    Returns:
        `custom`.

    Raises:
        UsageError: the node, or its domain in another version, belongs to another operator already.
    """
    key: str = custom.overload.name()  # type: ignore[no-untyped-call]
    for other_key, other in _REGISTERED.items():
        if other_key != key and other.label == custom.label:
            raise UsageError(f"{custom.label} is the node of torch operator {other_key} already; give {key} another name")
        if other_key != key and other.domain == custom.domain and other.version != custom.version:
            raise UsageError(
                f"{custom.label} is of version {custom.version} and {other.label} of version {other.version}; "
                "a model has one version of a domain"
            )
    _REGISTERED[key] = custom
    return custom


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's `custom_translation_table`."""
    return {custom.overload: translation(custom) for custom in _REGISTERED.values()}


def attach_bodies(model: ir.Model) -> None:
    """Give every custom operator of the model its body, in place."""
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes()}
    for custom in _REGISTERED.values():
        if (custom.domain, custom.name) in used:
            function = custom.function()
            model.functions[function.identifier()] = function
            model.graph.opset_imports[custom.domain] = custom.version
