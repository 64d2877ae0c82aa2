"""Scale migration: the large columns of a product's input are made smaller, and the rows of its weights larger by as much.

SmoothQuant (Xiao et al. 2023, https://arxiv.org/abs/2211.10438). Where the input is a product with a constant vector
that nothing else reads, as a root-mean-square normalization is, that vector is divided; elsewhere the division is a product of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeattn.exporters.quantize.observing import Feeds, read_by

Array = NDArray[np.float32]

STRENGTH = 0.8
"""The exponent of the input's share; 0.5 to 0.9 in the paper."""
_LEAST = 1e-5


def largest_inputs(model: onnx.ModelProto, nodes: Collection[str], samples: Sequence[Feeds], padding: str) -> dict[str, Array]:
    """The largest magnitude of each column, (I,), of the inputs of products `nodes`, over the real positions of `samples`."""
    products = [node for node in model.graph.node if _is_one_of(node, nodes)]
    found: dict[str, Array] = {}
    for read in read_by(model, products, samples, padding):
        for name, rows in read.items():
            peak = np.abs(rows).max(axis=0)
            found[name] = np.maximum(found[name], peak) if name in found else peak
    return found


def smooth(model: onnx.ModelProto, nodes: Collection[str], largest: Mapping[str, Array]) -> None:
    """Migrate scales in place, at the products `nodes` that share an input together. Weights that something else reads too, as
    layers that share theirs, stay as they are."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    read = Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])
    for node in graph.node:
        if _is_one_of(node, nodes) and node.input[0] in largest and read[node.input[1]] == 1:
            readers.setdefault(node.input[0], []).append(node)
    before = {name: node for node in graph.node for name in node.output}
    for name, users in readers.items():
        matrices = [numpy_helper.to_array(weights[user.input[1]]) for user in users]
        scales = _scales(largest[name], np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0))
        for user, matrix in zip(users, matrices, strict=True):
            weights[user.input[1]].CopyFrom(numpy_helper.from_array(matrix * scales[:, None], user.input[1]))
        norm = weights.get(_norm_weights(before.get(name), weights)) if read[name] == len(users) else None
        if norm is not None and read[norm.name] == 1 and numpy_helper.to_array(norm).shape == scales.shape:
            norm.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(norm) / scales, norm.name))
        else:
            _divide(graph, name, users, scales)


def _norm_weights(node: onnx.NodeProto | None, weights: Collection[str]) -> str:
    """The constant that `node` multiplies by, if that is all it does."""
    constants = [name for name in node.input if name in weights] if node is not None and node.op_type == "Mul" else []
    return constants[0] if len(constants) == 1 else ""


def _divide(graph: onnx.GraphProto, name: str, users: list[onnx.NodeProto], scales: Array) -> None:
    graph.initializer.append(numpy_helper.from_array(1 / scales, f"{name}.scales"))
    first = min(list(graph.node).index(user) for user in users)
    divided = f"{name}.smooth"
    graph.node.insert(first, helper.make_node("Mul", [name, f"{name}.scales"], [divided], divided))
    for user in users:
        user.input[0] = divided


def _is_one_of(node: onnx.NodeProto, nodes: Collection[str]) -> bool:
    return node.op_type == "MatMul" and node.name in nodes


def _scales(inputs: Array, weights: Array) -> Array:
    """(I,), of geometric mean 1: only their ratios matter."""
    scales = np.maximum(inputs, _LEAST) ** STRENGTH / np.maximum(weights, _LEAST) ** (1 - STRENGTH)
    return np.asarray(scales / np.exp(np.log(scales).mean()), dtype=np.float32)
