"""Attention written out, MatMul, Softmax, MatMul, read back into a captured node.

Only what matches exactly is replaced. What a step between the products means is read in `scores`, the layout of queries,
keys and values in `operands`; what a mask tensor means is asked later, in `specify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeattn.errors import SpecError
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.base import Operator, RaisingError, dim, dims
from edgeattn.exporters.raising.operands import guess_heads, swapped, unscaled, with_heads, without_heads
from edgeattn.exporters.raising.scores import Hidden, Scores, read_scores, same_rows, scalar
from edgeattn.spec import SoftmaxAttention

_ABSORBS = -1e9
"""A fill that swallows any score it is added to; weaker ones would tell hidden keys apart where a row has nothing else."""


@dataclass(frozen=True, slots=True)
class Plain:
    """One attention written out: its softmax, what comes before, and the product with the values."""

    softmax: ir.Node
    scores: Scores
    context: ir.Node


def raise_patterns(model: ir.Model) -> list[ir.Node]:
    """Turn attention written out in the main graph into captured nodes, in place; returns these.

    Requires shapes. What does not match, or has no spec, stays as it is.
    """
    raised = []
    for softmax in [node for node in model.graph if node.op_type == "Softmax" and node.domain == ""]:
        plain = match(softmax)
        node = _raise(model, plain) if plain is not None else None
        if node is not None:
            raised.append(node)
    return raised


def match(softmax: ir.Node) -> Plain | None:
    """The attention around a softmax; None where it is not attention, or not plainly."""
    value = softmax.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else None
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    if rank is None or axis not in (-1, rank - 1):
        return None
    context = _context(softmax)
    scores = read_scores(value) if context is not None else None
    return Plain(softmax, scores, context) if scores is not None and context is not None else None


def _context(softmax: ir.Node) -> ir.Node | None:
    """The product that the weights go into, and nothing else does."""
    value = softmax.outputs[0]
    for _ in range(8):
        users = list(dict.fromkeys(use.node for use in value.uses()))
        if value.is_graph_output():
            return None
        if (guarded := _guarded(value, users)) is not None:
            value = guarded
            continue
        if len(users) != 1 or users[0].domain != "":
            return None
        node = users[0]
        if node.op_type == "MatMul":
            return node if node.inputs[0] is value and node.inputs[1] is not value else None
        if node.inputs[0] is not value or not _inert(node):
            return None
        value = node.outputs[0]
    return None


def _guarded(value: ir.Value, users: list[ir.Node]) -> ir.Value | None:
    """Where(IsNaN(p), 0, p): rows that see no key give zeros, as in a canonical node."""
    kinds = {node.op_type: node for node in users}
    if len(users) != 2 or set(kinds) != {"IsNaN", "Where"}:
        return None
    flag, where = kinds["IsNaN"].outputs[0], kinds["Where"]
    only = len(flag.uses()) == 1 and not flag.is_graph_output()
    return where.outputs[0] if only and where.inputs[0] is flag and scalar(where.inputs[1]) == 0 else None


def _inert(node: ir.Node) -> bool:
    """Whether the weights stay what they are: each row of them over the keys."""
    before, after = node.inputs[0], node.outputs[0]
    if node.op_type == "Reshape":
        known = bool(dims(before)) and None not in dims(before)
        return before is not None and (same_rows(before, after) or (known and dims(before) == dims(after)))
    return node.op_type in ("Identity", "Cast") or (node.op_type == "Dropout" and _inference(node))


def _inference(dropout: ir.Node) -> bool:
    training = dropout.inputs[2] if len(dropout.inputs) > 2 else None
    return (training is None or scalar(training) == 0) and all(not out.uses() for out in dropout.outputs[1:])


def _raise(model: ir.Model, plain: Plain) -> ir.Node | None:
    node, b = plain.context, Builder()
    try:
        found = _write(Operator(b, node, model.graph.opset_imports[""]), plain)
    except (SpecError, RaisingError):
        return None
    if found is None:
        return None
    captured, result = found
    old = node.outputs[0]
    result.name, result.shape, result.type = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    name = plain.softmax.name or "softmax"
    for count, new in enumerate(b.nodes):
        new.name = name if new is captured else f"{name}_{count}"
        new.metadata_props.update(plain.softmax.metadata_props)
    plain.softmax.name = f"{name}_unused"
    model.graph.insert_before(node, list(b.nodes))
    model.graph.remove(node, safe=True)
    return captured


def _write(op: Operator, plain: Plain) -> tuple[ir.Node, ir.Value] | None:
    """The captured node, and what replaces the product. Raises RaisingError, SpecError: no such site."""
    b, scores = op.b, plain.scores
    left, right = scores.product.inputs
    value = plain.context.inputs[1]
    assert left is not None
    assert right is not None
    assert value is not None
    ranks = {op.rank(x) for x in (left, right)}
    if len(ranks) != 1 or not ranks <= {3, 4} or op.rank(value) not in (3, 4):
        return None
    heads = op.fixed(left, 1) if ranks == {4} else scores.heads or guess_heads(left)
    q, k = unscaled(b, left), unscaled(b, right)
    given = (q.value, swapped(b, k.value), value)
    x, y, z = (op.single(with_heads(b, each, heads)) for each in given)
    kv_heads = op.fixed(y, 1)
    if op.fixed(z, 1) != kv_heads or any(_apart(x, other) for other in (y, z)):
        return None
    spec = SoftmaxAttention(
        heads,
        kv_heads,
        op.fixed(x, 3),
        value_head_dim=op.fixed(z, 3),
        scale=_usual(scores.scale * q.factor * k.factor, op.fixed(x, 3)),
        softcap=None if scores.softcap is None else float(scores.softcap),
        mask="dense" if any(h.fill == -np.inf for h in scores.hidden) else "none",
        bias=bool(scores.added) or any(h.fill != -np.inf for h in scores.hidden),
    )
    context = op.core(spec, x, y, z, _mask(op, scores, heads), _bias(op, scores, heads), dims=(dim(x, 0), dim(x, 2)))
    captured = context.producer()
    assert captured is not None
    return captured, op.returned(without_heads(b, context, heads, value), value)


def _apart(q: ir.Value, other: ir.Value) -> bool:
    """Whether the rows of a batch are known to differ in number."""
    sizes = dim(q, 0), dim(other, 0)
    return None not in sizes and sizes[0] != sizes[1]


def _usual(scale: float, head_dim: int) -> float:
    """0, which means 1 / sqrt(head_dim), where the file's float32 numbers make that."""
    return 0.0 if math.isclose(scale * math.sqrt(head_dim), 1.0, rel_tol=1e-6) else scale


def _mask(op: Operator, scores: Scores, heads: int) -> ir.Value | None:
    """True where a key is seen, of all masks that hide with -inf."""
    shown = None
    for hidden in scores.hidden:
        if hidden.fill == -np.inf:
            condition = _four_axes(op, hidden.condition, hidden.axes, heads)
            one = op.b.op("Not", condition) if hidden.where else condition
            shown = one if shown is None else op.b.op("And", shown, one)
            shown.type, shown.shape = ir.TensorType(ir.DataType.BOOL), condition.shape if shown is one else None
    return shown


def _bias(op: Operator, scores: Scores, heads: int) -> ir.Value | None:
    """All that is added to the scores, masks with a finite fill among it."""
    parts = [_times(op, op.single(_four_axes(op, x.value, x.axes, heads)), x.factor) for x in scores.added]
    parts += [_as_bias(op, hidden, heads) for hidden in scores.hidden if hidden.fill != -np.inf]
    total = None
    for one in parts:
        total = one if total is None else op.b.op("Add", total, one)
        total.type = ir.TensorType(ir.DataType.FLOAT)
    return total


def _times(op: Operator, value: ir.Value, factor: float) -> ir.Value:
    if factor == 1:
        return value
    product = op.b.op("Mul", value, op.b.number(factor))
    product.shape = value.shape
    return product


def _as_bias(op: Operator, hidden: Hidden, heads: int) -> ir.Value:
    """Raises RaisingError for a fill so weak that adding it is not the same as putting it in the score's place."""
    if hidden.fill > _ABSORBS:
        raise op.error(f"scores are replaced by {hidden.fill:g}, which does not hide a key for certain")
    condition = _four_axes(op, hidden.condition, hidden.axes, heads)
    fill, zero = op.b.number(hidden.fill), op.b.number(0.0)
    added = op.b.op("Where", condition, *((fill, zero) if hidden.where else (zero, fill)))
    added.shape = condition.shape
    return added


def _four_axes(op: Operator, value: ir.Value, axes: int, heads: int) -> ir.Value:
    """Broadcastable to (B, H, S, T), from what broadcasts to scores of `axes` axes; three of them are (B * H, S, T)."""
    rank = op.rank(value)
    if rank > axes or axes not in (3, 4):
        raise op.error(f"{value.name!r} has {rank} axes, where the scores have {axes}")
    if rank == 3 and axes == 3 and dim(value, 0) != 1:
        return with_heads(op.b, value, heads)
    if rank == 4:
        return value
    wide = op.b.op("Unsqueeze", value, op.b.ints(*range(4 - rank)))
    wide.type, wide.shape = value.type, ir.Shape([1] * (4 - rank) + list(value.shape or ()))
    return wide
