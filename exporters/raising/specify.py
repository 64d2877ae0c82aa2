"""Say in a site's spec what its masks are proven to mean: a pattern, padding; what is left stays a bias."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.canonical import CAPTURED_OP, SPEC_ATTRIBUTE
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.masks import Lengths, Meaning, meaning
from edgeattn.exporters.raising.parts import free_symbols
from edgeattn.exporters.sites import DOMAIN
from edgeattn.spec import AttentionSpec, SoftmaxAttention, from_json, to_json

_MASK, _BIAS = 3, 4
"""Inputs of a captured node."""


def specify_masks(model: ir.Model, nodes: Sequence[ir.Node] | None = None) -> None:
    """Replace dense masks and biases of captured nodes (all, or `nodes`) by what they mean, in place, where that is proven.

    Requires shapes, and names.
    """
    symbols = frozenset(name for value in model.graph.inputs for dim in value.shape or () for name in free_symbols(dim))
    proofs: dict[object, Meaning | None] = {}
    paddings: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(model.graph) if nodes is None else nodes:
        if node.domain == DOMAIN and node.op_type == CAPTURED_OP:
            spec = from_json(node.attributes[SPEC_ATTRIBUTE].as_string())
            lengths = _lengths(node, symbols)
            if lengths is not None and isinstance(spec, SoftmaxAttention) and spec.mask in ("none", "dense"):
                _specify(model.graph, node, spec, lengths, proofs, paddings)


def _lengths(node: ir.Node, symbols: frozenset[str]) -> Lengths | None:
    q, k = node.inputs[:2]
    if q is None or k is None or q.shape is None or k.shape is None or len(q.shape) != 4 or len(k.shape) != 4:
        return None
    return Lengths(q.shape[2], k.shape[2], symbols)


def _specify(
    graph: ir.Graph,
    node: ir.Node,
    spec: AttentionSpec,
    lengths: Lengths,
    proofs: dict[object, Meaning | None],
    paddings: dict[tuple[ir.Value, int], ir.Value],
) -> None:
    inputs = [*node.inputs, *([None] * (_BIAS + 1 - len(node.inputs)))]
    mask, bias = inputs[_MASK], inputs[_BIAS]
    parts = [] if bias is None else _summands(bias)
    if mask is None and not parts:
        return
    found, used = _prove([*([] if mask is None else [mask]), *parts], spec, lengths, proofs)
    if found is None or (mask is not None and mask not in used):
        return
    b = Builder()
    rest = [value for value in parts if value not in used]
    kept = bias if len(rest) == len(parts) else _sum(b, rest)
    padding = None
    if found.padding is not None:
        key = (found.padding, found.padded)
        if key not in paddings:
            paddings[key] = _real(graph, *key)
        padding = paddings[key]
    graph.insert_before(node, list(b.nodes))
    spec = dataclasses.replace(
        spec, pattern=found.pattern, mask="none" if padding is None else "key_padding", bias=kept is not None
    )
    node.attributes[SPEC_ATTRIBUTE] = ir.AttrString(SPEC_ATTRIBUTE, to_json(spec))
    node.resize_inputs(max(len(node.inputs), _BIAS + 1))
    node.replace_input_with(_MASK, padding)
    node.replace_input_with(_BIAS, kept)


def _prove(
    values: list[ir.Value], spec: AttentionSpec, lengths: Lengths, proofs: dict[object, Meaning | None]
) -> tuple[Meaning | None, list[ir.Value]]:
    """What the most of `values` mean together, and which those are: all of them, else those that mean something alone."""

    def ask(chosen: Sequence[ir.Value]) -> Meaning | None:
        key = (tuple(chosen), spec.pattern, lengths)
        if key not in proofs:
            proofs[key] = meaning(chosen, spec.pattern, lengths)
        return proofs[key]

    if found := ask(values):
        return found, values
    alone = [value for value in values if ask([value])] if len(values) > 1 else []
    while alone:
        if found := ask(alone):
            return found, alone
        alone.pop()
    return None, []


def _summands(bias: ir.Value) -> list[ir.Value]:
    """What is added to the scores, one by one."""
    node = bias.producer()
    if node is None or node.domain != "" or node.op_type != "Add":
        return [bias]
    return [part for value in node.inputs if value is not None for part in _summands(value)]


def _sum(b: Builder, values: Sequence[ir.Value]) -> ir.Value | None:
    """All of them with four axes."""
    total: ir.Value | None = None
    for value in values:
        missing = 4 - len(value.shape) if value.shape is not None else 0
        wide = b.op("Unsqueeze", value, b.ints(*range(missing))) if missing else value
        total = wide if total is None else b.op("Add", total, wide)
        total.type = value.type
    return total


def _real(graph: ir.Graph, padding: ir.Value, padded: int) -> ir.Value:
    """Bool (B, T): True where the input does not mean padding. Computed once, in front of everything."""
    if padding.dtype == ir.DataType.BOOL and padded == 0:
        return padding
    b = Builder()
    if padded == 0:
        real = b.op("Cast", padding, to=ir.DataType.BOOL)
    else:
        assert padding.dtype is not None
        number = b.op("Constant", value=ir.tensor(np.array(padded, dtype=padding.dtype.numpy())))
        real = b.op("Not", b.op("Equal", padding, number))
    real.type, real.shape = ir.TensorType(ir.DataType.BOOL), padding.shape
    first = next(iter(graph))
    graph.insert_before(first, list(b.nodes))
    return real
