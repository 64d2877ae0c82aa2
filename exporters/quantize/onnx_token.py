"""A graph of its own for a single token, in one ONNX file with the graph for everything else.

What multiplies many rows fastest is seldom what multiplies one row fastest. An `If` of ONNX asks how many tokens there are; weights that
both graphs read are in the file once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx_ir.passes import common

from edgeattn.decoding.session import MASK, POSITIONS
from edgeattn.exporters.passes.one_token import OneToken
from edgeattn.exporters.passes.skip_norm import AddAndNormalize
from edgeattn.exporters.passes.vector_products import VectorProducts
from edgeattn.exporters.quantize.onnx_file import plain
from edgeattn.manifest import TOKENS

Proto = TypeVar("Proto", onnx.NodeProto, onnx.ValueInfoProto, onnx.TensorProto)
_TOKEN, _PROMPT = "token/", "prompt/"
"""Before the names of what is in either graph alone."""


def for_one_token(path: Path, limit: int | None) -> onnx.ModelProto:
    """The decoder at `path` as it can be where one row of one token is read, whose position is below `limit` and which has no padding
    before it; made ready for the quantizers as `onnx_file.read` does."""
    model = ir.load(path)
    ir.passes.Sequential(OneToken(POSITIONS, limit), VectorProducts(), AddAndNormalize(), common.RemoveUnusedNodesPass())(model)
    written = ir.to_proto(model)
    onnx.load_external_data_for_model(written, str(path.parent))
    return plain(written)


def joined(prompts: onnx.ModelProto, token: onnx.ModelProto, limit: int | None) -> onnx.ModelProto:
    """A model with the inputs and outputs of `prompts` that runs `token` where `for_one_token` allows it. Raises ValueError where the two
    mean other versions of an operator set."""
    shared = _shared(prompts, token)
    graph = prompts.graph
    nodes, constants = _is_one_token(limit)
    branches = {"then_branch": _branch(token.graph, _TOKEN, shared), "else_branch": _branch(graph, _PROMPT, shared)}
    nodes.append(helper.make_node("If", ["is_one_token"], [value.name for value in graph.output], "by_length", **branches))
    weights = [tensor for tensor in graph.initializer if tensor.name in shared]
    both = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*weights, *constants])
    versions: dict[str, int] = {}
    for entry in (*token.opset_import, *prompts.opset_import):
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise ValueError(
                f"one graph has version {versions[entry.domain]} of {entry.domain or 'ai.onnx'}, the other {entry.version}"
            )
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(both, opset_imports=opsets, ir_version=prompts.ir_version)
    model.metadata_props.extend(prompts.metadata_props)
    return model


def _is_one_token(limit: int | None) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Whether there is one token in all, no padding, and a position that tables have."""
    constants = {"one_token.1": 1, "one_token.0": 0, **({} if limit is None else {"one_token.limit": limit})}
    asked = [
        ("Size", [TOKENS], "one_token.count"),
        ("Equal", ["one_token.count", "one_token.1"], "one_token.alone"),
        ("ReduceMin", [MASK], "one_token.least"),
        ("Equal", ["one_token.least", "one_token.1"], "one_token.unpadded"),
        ("And", ["one_token.alone", "one_token.unpadded"], "one_token.plain"),
        ("ReduceMin", [POSITIONS], "one_token.position"),
        ("GreaterOrEqual", ["one_token.position", "one_token.0"], "one_token.counted"),
    ]
    if limit is not None:
        asked += [("Less", ["one_token.position", "one_token.limit"], "one_token.below")]
        asked += [("And", ["one_token.counted", "one_token.below"], "one_token.known")]
    asked += [("And", ["one_token.plain", asked[-1][2]], "is_one_token")]
    nodes = [
        helper.make_node(op, read, [written], written, **({"keepdims": 0} if op == "ReduceMin" else {}))
        for op, read, written in asked
    ]
    return nodes, [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items()]


def _shared(one: onnx.ModelProto, other: onnx.ModelProto) -> set[str]:
    """The names of weights that both have alike."""
    known = {tensor.name: tensor for tensor in one.graph.initializer}
    return {t.name for t in other.graph.initializer if t.name in known and known[t.name] == t}


def _branch(graph: onnx.GraphProto, prefix: str, shared: Collection[str]) -> onnx.GraphProto:
    """`graph` without inputs, with names of its own but for the model's inputs and weights that are `shared`."""
    outside = {value.name for value in graph.input} | set(shared) | {""}

    def named(names: Iterable[str]) -> list[str]:
        return [name if name in outside else prefix + name for name in names]

    nodes = [_renamed(node, prefix + (node.name or str(number))) for number, node in enumerate(graph.node)]
    for node in nodes:
        node.input[:], node.output[:] = named(node.input), named(node.output)
    outputs = [_renamed(value, prefix + value.name) for value in graph.output]
    weights = [_renamed(t, prefix + t.name) for t in graph.initializer if t.name not in shared]
    return helper.make_graph(nodes, prefix + graph.name, [], outputs, weights)


def _renamed(proto: Proto, name: str) -> Proto:
    copy = type(proto)()
    copy.CopyFrom(proto)
    copy.name = name
    return copy
