"""Queries, keys and values of a plain attention as a site wants them: four axes, unscaled, each key head once."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.base import dim, dims
from edgeattn.exporters.raising.scores import same_rows, scalar

_MOVES = ("Transpose", "Reshape")
_STEPS = 6


@dataclass(frozen=True, slots=True)
class Unscaled:
    """A value without the number that it was multiplied by."""

    value: ir.Value
    factor: float = 1.0


def swapped(b: Builder, keys: ir.Value) -> ir.Value:
    """`keys` (..., D, T) with the last two axes the other way round; where they were just swapped, the value before that."""
    node = keys.producer()
    if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None and "perm" in node.attributes:
        perm = list(node.attributes["perm"].as_ints())
        perm[-2:] = perm[:-3:-1]
        return node.inputs[0] if perm == sorted(perm) else _shaped(b.transpose(node.inputs[0], *perm), keys)
    if node is not None and (before := _swapped_flat(node)) is not None:
        return before
    rank = len(keys.shape or ())
    return _shaped(b.transpose(keys, *range(rank - 2), rank - 1, rank - 2), keys)


def _swapped_flat(node: ir.Node) -> ir.Value | None:
    """torch swaps the last two of four axes by way of three."""
    flat = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] is not None else None
    fold = (
        flat.inputs[0].producer() if flat is not None and flat.op_type == "Transpose" and flat.inputs[0] is not None else None
    )
    if flat is None or fold is None or fold.op_type != "Reshape" or list(flat.attributes["perm"].as_ints()) != [0, 2, 1]:
        return None
    before, after = fold.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or len(before.shape) != 4 or len(after.shape) != 4:
        return None
    plain = same_rows(before, fold.outputs[0]) and same_rows(flat.outputs[0], after)
    return before if plain and dims(before)[:2] == dims(after)[:2] and None not in dims(before)[:2] else None


def unscaled(b: Builder, value: ir.Value) -> Unscaled:
    """Take out a factor that the value, or what it was before it was moved about, was multiplied by."""
    moves: list[ir.Node] = []
    source = value
    for _ in range(_STEPS):
        node = source.producer()
        if node is None or node.domain != "" or node.inputs[0] is None:
            break
        if node.op_type in _MOVES:
            moves.append(node)
            source = node.inputs[0]
            continue
        if (found := _factored(node)) is None:
            break
        for move in reversed(moves):
            again = b.op(move.op_type, found.value, *move.inputs[1:], **{a.name: a.value for a in move.attributes.values()})
            again.type, again.shape = move.outputs[0].type, move.outputs[0].shape
            found = Unscaled(again, found.factor)
        deeper = unscaled(b, found.value)
        return Unscaled(deeper.value, deeper.factor * found.factor)
    return Unscaled(value)


def _factored(node: ir.Node) -> Unscaled | None:
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    number = scalar(right)
    if number is None and node.op_type == "Mul":
        (left, right), number = (right, left), scalar(left)
    same = left is not None and right is not None and left.shape == node.outputs[0].shape
    if number is None or number <= 0 or left is None or not same:
        return None
    return Unscaled(left, number if node.op_type == "Mul" else 1 / number)


def with_heads(b: Builder, value: ir.Value, heads: int) -> ir.Value:
    """(B * H, S, D) -> (B, H, S, D); four axes stay."""
    if value.shape is None or len(value.shape) == 4:
        return value
    if heads == 1:
        wide = b.op("Unsqueeze", value, b.ints(1))
    else:
        wide = b.op("Reshape", value, b.op("Concat", b.ints(-1, heads), b.size(value, 1), b.size(value, 2), axis=0))
    wide.type = value.type
    first = divided(value.shape[0], heads)
    wide.shape = ir.Shape([first, heads, *value.shape[1:]])
    return wide


def without_heads(b: Builder, value: ir.Value, heads: int, like: ir.Value) -> ir.Value:
    """(B, H, S, E) -> (B * H, S, E) where `like` has three axes."""
    if like.shape is None or len(like.shape) == 4:
        return value
    if heads == 1:
        return b.op("Squeeze", value, b.ints(1))
    return b.op("Reshape", value, b.op("Concat", b.ints(-1), b.size(value, 2), b.size(value, 3), axis=0))


def guess_heads(queries: ir.Value) -> int:
    """How many heads lie in the first of three axes: from the last larger size that the head size was split from.

    Each entry of the first axis is attention of its own, so any divisor is right; this is the one that says most.
    """
    size, value = dim(queries, -1), queries
    for _ in range(_STEPS):
        node = value.producer()
        moves = node is not None and (node.op_type in (*_MOVES, "Unsqueeze", "Squeeze") or _factored(node) is not None)
        before = next((x for x in node.inputs if len(dims(x)) >= 2), None) if node is not None and moves else None
        if before is None:
            return 1
        value, last = before, dim(before, -1)
        if isinstance(size, int) and isinstance(last, int) and last > size and last % size == 0:
            heads = last // size
            return heads if queries.shape is not None and divided(queries.shape[0], heads) is not None else 1
    return 1


def divided(size: int | ir.SymbolicDim, by: int) -> int | ir.SymbolicDim | None:
    """size / by where that is whole for certain."""
    if by == 1:
        return size
    if isinstance(size, int):
        return size // by if size % by == 0 else None
    product = re.fullmatch(r"(\d+)\*(\w+)|(\w+)\*(\d+)", (size.value or "").replace(" ", ""))
    if product is None or int(product[1] or product[4]) % by:
        return None
    factor, name = int(product[1] or product[4]) // by, product[2] or product[3]
    return ir.SymbolicDim(name if factor == 1 else f"{factor}*{name}")


def _shaped(value: ir.Value, like: ir.Value) -> ir.Value:
    """With the type of `like`, and its shape with the last two axes swapped."""
    value.type = like.type
    if like.shape is not None:
        dims = list(like.shape)
        value.shape = ir.Shape([*dims[:-2], dims[-1], dims[-2]])
    return value
