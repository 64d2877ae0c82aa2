"""From the input of a softmax back to the product of queries and keys: scale, soft cap, what is added, what is hidden."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.raising.base import dim
from edgeattn.exporters.raising.masks import HIDES

_DEPTH = 24
"""Steps between a product and its softmax, at most."""


@dataclass(slots=True)
class Added:
    """`value` times `factor`, added to scores of `axes` axes."""

    value: ir.Value
    factor: float
    axes: int


@dataclass(slots=True)
class Hidden:
    """Scores of `axes` axes, replaced by `fill` where `condition` is `where`."""

    condition: ir.Value
    where: bool
    fill: float
    axes: int


@dataclass(slots=True)
class Scores:
    """softcap(scale * q k^T) + `added`, and `hidden`. `heads`: axis 1 of scores with four axes."""

    product: ir.Node
    scale: float = 1.0
    softcap: float | None = None
    added: list[Added] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    heads: int | None = None

    @property
    def bare(self) -> bool:
        """Whether nothing but a scale came after the product."""
        return not self.added and not self.hidden and self.softcap is None

    def times(self, factor: float) -> Scores | None:
        """Everything so far times a number; None where that is not attention."""
        if not np.isfinite(factor) or factor <= 0:
            return None
        self.scale *= factor
        self.softcap = None if self.softcap is None else self.softcap * factor
        for added in self.added:
            added.factor *= factor
        for hidden in self.hidden:
            hidden.fill *= factor
        return self


def read_scores(value: ir.Value | None, depth: int = _DEPTH) -> Scores | None:
    """What `value`, the input of a softmax, is made of; None where it is not attention's scores."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or not depth:
        return None
    match node.op_type:
        case "MatMul":
            return Scores(node) if all(scalar(x) is None and not _stored(x) for x in node.inputs) else None
        case "Identity" | "Cast":
            return read_scores(node.inputs[0], depth - 1) if _floating(node.outputs[0]) else None
        case "Mul" | "Div":
            return _scaled(node, depth - 1)
        case "Add" | "Sub":
            return _added(node, depth - 1)
        case "Where":
            return _hidden(node, depth - 1)
        case "Reshape":
            return _reshaped(node, depth - 1)
    return None


def _scaled(node: ir.Node, depth: int) -> Scores | None:
    left, right = node.inputs
    factor = scalar(right)
    if factor is None and node.op_type == "Mul":
        (left, right), factor = (right, left), scalar(left)
    if factor is None or factor == 0 or left is None:
        return None
    if node.op_type == "Div":
        factor = 1 / factor
    before = left.producer()
    if before is not None and before.op_type == "Tanh":
        # c tanh(x), with x = s / c: a cap of c, and c times the scale before the tanh
        found = read_scores(before.inputs[0], depth)
        if found is None or not found.bare or found.times(factor) is None:
            return None
        found.softcap = factor
        return found
    found = read_scores(left, depth)
    return found.times(factor) if found else None


def _added(node: ir.Node, depth: int) -> Scores | None:
    sign = 1.0 if node.op_type == "Add" else -1.0
    for this, other in (node.inputs, node.inputs[::-1])[: 2 if sign > 0 else 1]:
        found = read_scores(this, depth)
        if found is not None and other is not None:
            found.added.append(Added(other, sign, _axes(node)))
            return found
    return None


def _hidden(node: ir.Node, depth: int) -> Scores | None:
    condition, then, otherwise = node.inputs
    for kept, replaced, where in ((then, otherwise, False), (otherwise, then, True)):
        fill = scalar(replaced)
        if fill is not None and fill <= HIDES and condition is not None and (found := read_scores(kept, depth)):
            found.hidden.append(Hidden(condition, where, fill, _axes(node)))
            return found
    return None


def _reshaped(node: ir.Node, depth: int) -> Scores | None:
    """(B * H, S, T) and (B, H, S, T) are the same scores."""
    before, after = node.inputs[0], node.outputs[0]
    if before is None or not same_rows(before, after):
        return None
    found = read_scores(before, depth)
    if found is None:
        return None
    wide = next(value for value in (before, after) if value.shape is not None and len(value.shape) == 4)
    heads = dim(wide, 1)
    if not isinstance(heads, int) or found.heads not in (None, heads):
        return None
    found.heads = heads
    return found


def same_rows(before: ir.Value, after: ir.Value) -> bool:
    """Whether a reshape between three and four axes leaves the last two as they are."""
    if before.shape is None or after.shape is None or {len(before.shape), len(after.shape)} != {3, 4}:
        return False
    last = [(dim(value, -2), dim(value, -1)) for value in (before, after)]
    return last[0] == last[1] and None not in last[0]


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant holds in every element."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or not 0 < tensor.size <= 1 << 20:
        return None
    numbers = tensor.numpy().astype(np.float64).ravel()
    return float(numbers[0]) if tensor.size == 1 or (numbers == numbers[0]).all() else None


def _axes(node: ir.Node) -> int:
    """How many axes the scores have that a node gives; 0 where the graph does not know."""
    return len(node.outputs[0].shape or ())


def _stored(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _floating(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
