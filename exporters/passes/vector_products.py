"""Have ONNX Runtime's cached attention read keys and values of a single query with the fastest of its products."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder, stored

_KEY, _PAST, _SINK = 1, 3, 11
"""Places of the new keys, the past ones and the sinks among the operator's inputs."""
_NOTHING = -1e30
"""A sink that takes no part of a softmax, whatever the scores."""


class VectorProducts(ir.passes.InPlacePass):
    """com.microsoft.GroupQueryAttention on the CPU, for a single query: attention in tiles, which it takes wherever it may, reads
    keys and values with whatever the oldest processor has. With a sink for each head it multiplies with MLAS instead, which has
    vectors' products in AVX, for scores that need no scale. So the sinks are there and take nothing, and queries come scaled.

    A prompt is better off with tiles: without them scores are held whole. What has sinks of its own keeps them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            past = node.inputs[_PAST] if node.op_type == "GroupQueryAttention" and len(node.inputs) > _PAST else None
            size = past.shape[3] if past is not None and past.shape is not None else None
            if isinstance(size, int):
                _scale_queries(model.graph, node, size)
                _sink(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _scale_queries(graph: ir.Graph, node: ir.Node, size: int) -> None:
    """Multiply queries, heads of `size`, by what scores would be multiplied by; keys and values packed behind them stay."""
    given = node.attributes.get("scale")
    scale = given.as_float() if given is not None and given.as_float() else 1 / math.sqrt(size)
    queries, others = node.attributes["num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()
    packed = 0 if node.inputs[_KEY] is not None else 2 * others * size
    name = f"queries.{queries}x{size}+{packed}.times.{scale}"
    factors = np.concatenate([np.full(queries * size, scale, np.float32), np.ones(packed, np.float32)])
    b = Builder()
    scaled = b.op("Mul", node.inputs[0], graph.initializers.get(name) or stored(graph, name, factors))
    graph.insert_before(node, list(b.nodes))
    node.replace_input_with(0, scaled)
    node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)


def _sink(graph: ir.Graph, node: ir.Node) -> None:
    """Give it sinks, unless it has some, or one of zero for all."""
    smooth = node.attributes.get("smooth_softmax")
    if (len(node.inputs) > _SINK and node.inputs[_SINK] is not None) or (smooth is not None and smooth.as_int() == 1):
        return
    heads = node.attributes["num_heads"].as_int()
    name = f"sinks.{heads}.of.nothing"
    node.resize_inputs(max(len(node.inputs), _SINK + 1))
    node.replace_input_with(_SINK, graph.initializers.get(name) or stored(graph, name, np.full(heads, _NOTHING, np.float32)))
