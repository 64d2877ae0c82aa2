"""A bias of zeros is no bias: T5's cross attention, for one, adds a tensor of them as large as the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeattn.spec import AttentionSpec

_MOVES = frozenset({"Cast", "CastLike", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that leave zeros zeros."""


def without_zero_bias(
    spec: AttentionSpec, inputs: Sequence[ir.Value | None]
) -> tuple[AttentionSpec, Sequence[ir.Value | None]]:
    """Spec and inputs of a node, without the bias where that is known to be zeros throughout."""
    given = [value for value in inputs if value is not None]
    place = spec.input_names.index("bias") if spec.bias else None
    if place is None or not _is_zero(given[place]):
        return spec, inputs
    return dataclasses.replace(spec, bias=False), [*given[:place], *given[place + 1 :]]


def _is_zero(value: ir.Value | None) -> bool:
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            return fill is None or not np.any(fill.as_tensor().numpy())
        if node is None or node.op_type not in _MOVES:
            return False
        value = node.inputs[0]
    return value is not None and value.const_value is not None and not np.any(value.const_value.numpy())
