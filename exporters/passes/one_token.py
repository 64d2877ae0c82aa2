"""A decoder's attention on ONNX Runtime as it can be for a single token: its rotary positions inside the operator, and no mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import stored
from edgeattn.exporters.lowerings.contrib import DOMAIN
from edgeattn.exporters.raising.parts import Part, part, running
from edgeattn.exporters.sites import SPEC_KEY
from edgeattn.spec import Causal, SoftmaxAttention, from_json

_PAST, _COS, _POSITIONS, _BIAS = 3, 7, 9, 10
"""Places of the past keys, the cosines (sines follow), the positions and the bias among the operator's inputs."""
_ROTATED_MULTIPLE = 16
"""Of a head's size, where the operator turns it."""
_LARGEST = 64 << 20
"""Bytes of the tables up to which they are stored."""


class OneToken(ir.passes.InPlacePass):
    """com.microsoft.GroupQueryAttention over a cache, for one row of one token, with every position before it real and its own below
    `limit`: everything is visible, so that what it may see needs not be said; and its rotary positions become the operator's own,
    read from tables, with queries, keys and values as one product left them.

    For more than one token it would not do: of a prompt the operator takes the first position alone, and counts on from it.
    Leaves dead nodes for the unused-node pass.
    """

    def __init__(self, positions: str, limit: int | None) -> None:
        super().__init__()
        self._positions = positions
        self._limit = limit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        tables: dict[tuple[ir.Value | None, ...], list[ir.Value]] = {}
        for node in model.graph:
            if node.op_type == "GroupQueryAttention" and len(node.inputs) > _BIAS and node.inputs[_PAST] is not None:
                modified |= _see_all(node)
                modified |= self._turn_inside(model.graph, node, tables)
        return ir.passes.PassResult(model, modified=modified)

    def _turn_inside(self, graph: ir.Graph, node: ir.Node, known: dict[tuple[ir.Value | None, ...], list[ir.Value]]) -> bool:
        q, k = (_turned(value) for value in node.inputs[:2])
        past = node.inputs[_PAST]
        if q is None or k is None or q.inputs[1:] != k.inputs[1:] or past is None or past.shape is None:
            return False
        size = past.shape[3]
        key = tuple(q.inputs[1:])
        if key not in known:
            known[key] = self._tables(graph, [value for value in key if value is not None])
        tables = known[key]
        if (
            len(tables) != 2
            or not isinstance(size, int)
            or size % _ROTATED_MULTIPLE
            or tables[0].shape != (self._limit, size // 2)
        ):
            return False
        for place, value in enumerate(_packed([q.inputs[0], k.inputs[0], node.inputs[2]])):
            node.replace_input_with(place, value)
        positions = next(value for value in graph.inputs if value.name == self._positions)
        for place, value in ((_COS, tables[0]), (_COS + 1, tables[1]), (_POSITIONS, positions)):
            node.replace_input_with(place, value)
        node.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 1)
        return True

    def _tables(self, graph: ir.Graph, values: Sequence[ir.Value]) -> list[ir.Value]:
        """The cosines and sines of every position, (limit, D / 2) each; none where they are not of the position alone."""
        found = part(values, {str(dim) for value in graph.inputs for dim in value.shape or ()})
        if self._limit is None or found is None or [value.name for value in found.read] != [self._positions]:
            return []
        every = _rows(found, np.arange(self._limit))
        if every is None or sum(table.nbytes for table in every) > _LARGEST:
            return []
        for position in {0, 1, self._limit // 2, self._limit - 1}:  # what a text's other positions change, as its length does
            alone = _rows(found, np.array([position]))
            if alone is None or any((one[0] != table[position]).any() for one, table in zip(alone, every, strict=True)):
                return []
        return [stored(graph, f"{value.name}.table", table) for value, table in zip(values[1:], every, strict=True)]


def _see_all(node: ir.Node) -> bool:
    """Leave out what only says that nothing behind a token is seen, nor padding."""
    spec = from_json(node.metadata_props[SPEC_KEY]) if SPEC_KEY in node.metadata_props else None
    if not isinstance(spec, SoftmaxAttention) or not isinstance(spec.pattern, Causal) or spec.bias:
        return False
    node.replace_input_with(_BIAS, None)
    return True


def _turned(value: ir.Value | None) -> ir.Node | None:
    """The operator that turns a whole head's two halves, if `value` comes from one."""
    node = value.producer() if value is not None else None
    whole = node is not None and node.op_type == "RotaryEmbedding" and node.domain == DOMAIN and len(node.inputs) == 4
    return node if node is not None and whole and set(node.attributes) <= {"num_heads"} else None


def _packed(rows: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """What queries, keys and values were split from, alone; themselves where they were not."""
    split = rows[0].producer() if rows[0] is not None else None
    last = split is not None and split.op_type == "Split" and split.attributes["axis"].as_int() in (-1, 2)
    return [split.inputs[0], None, None] if split is not None and last and list(split.outputs) == list(rows) else rows


def _rows(found: Part, positions: NDArray[np.int64]) -> list[NDArray[np.float32]] | None:
    """Cosines and sines at these positions of a row, a line each; `found` computes the lines' numbers and the lines."""
    shape = (1, len(positions))
    feeds = {str(value.name): positions[None] if value in found.read else np.zeros(shape, np.int64) for value in found.leaves}
    if any(value.shape is None or len(value.shape) != 2 or value.dtype != ir.DataType.INT64 for value in found.leaves):
        return None
    with running(found) as session:
        results = session.run(feeds)
    lines = results["0"].reshape(-1)
    return [results[name][lines] for name in ("1", "2")] if len(lines) == len(positions) else None
