"""An ONNX flavour with smaller numbers in it: products with constant weights and embeddings, never attention itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeattn.exporters.quantize import onnx_int8
from edgeattn.exporters.quantize.kinds import HALF_MAX, SMALLEST, Kind, Layer
from edgeattn.exporters.quantize.observing import Feeds
from edgeattn.exporters.quantize.onnx_io import copied
from edgeattn.exporters.quantize.quiet import quiet
from edgeattn.exporters.quantize.ranges import Method

_SMALLEST_BLOCK = 32
_PADDING = 1 / 8
"""Of a column; what fills its last block up is read as all weights are, so that a smaller block is the quicker one beyond it."""


def layers(model: onnx.ModelProto) -> dict[str, Layer]:
    """The nodes that can be quantized, by name, in the order of the graph: products with constant weights, embeddings."""
    weights = {name: int(np.prod(tensor.dims)) for name, tensor in _matrices(model).items()}
    found = {node.name: _weight(node) for node in model.graph.node}
    return {node: Layer(weight, weights[weight]) for node, weight in found.items() if weight in weights}


def read(path: Path) -> onnx.ModelProto:
    """The model with its weights, made `plain`."""
    return plain(onnx.load(path))


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself, without the types of values in between (the quantizers find them again), and with every product's weights as its
    own constant."""
    del model.graph.value_info[:]
    _untie(model)
    return model


def quantized(
    model: onnx.ModelProto, kinds: Mapping[str, Kind], samples: Sequence[Feeds] = (), method: Method | None = None
) -> onnx.ModelProto:
    """A copy of `model` with the layers of `kinds`, by name, written so. `samples` are for kinds that need them, `method` is how
    their ranges are found."""
    result = copied(model)
    embeddings = {node.name for node in result.graph.node if node.op_type == "Gather"}
    products = {node: kind for node, kind in kinds.items() if node not in embeddings}
    if nodes := {node for node, kind in products.items() if kind.name == "int8-static"}:
        result = onnx_int8.static(result, nodes, samples, method)
    if nodes := {node for node, kind in products.items() if kind.name == "int8-dynamic"}:
        result = onnx_int8.dynamic(result, nodes)
    for (bits, size), nodes in _blockwise(result, products).items():
        result = _blocks(result, nodes, bits, size)
    for node, kind in kinds.items():
        if node in embeddings and kind.weights != "fp16":
            _rows(result, node)
    _halves(result, {node for node, kind in kinds.items() if kind.weights == "fp16"})
    return _without_leftovers(result)


def _weight(node: onnx.NodeProto) -> str:
    if node.op_type == "MatMul":
        return str(node.input[1])
    return str(node.input[0]) if node.op_type == "Gather" else ""


def _matrices(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= SMALLEST
    }


def _untie(model: onnx.ModelProto) -> None:
    """A product with the transpose of an embedding gets weights of its own: the two are quantized along different axes."""
    graph, weights = model.graph, _matrices(model)
    turned = {n.output[0]: n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights}
    users = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in turned]
    for node in users:
        transpose = turned[node.input[1]]
        matrix = numpy_helper.to_array(weights[transpose.input[0]]).T
        name = f"{transpose.input[0]}.T"
        if all(tensor.name != name for tensor in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), name))
        node.input[1] = name
    read = {name for node in graph.node for name in node.input}
    for transpose in turned.values():
        if transpose.output[0] not in read:
            graph.node.remove(transpose)


def _blockwise(model: onnx.ModelProto, kinds: Mapping[str, Kind]) -> dict[tuple[int, int], set[str]]:
    """The products in blocks, by their bits and the size of a block."""
    matrices = _matrices(model)
    found: dict[tuple[int, int], set[str]] = {}
    for node in model.graph.node:
        kind = kinds.get(node.name)
        if kind is not None and kind.block is not None:
            size = _fitting(matrices[_weight(node)].dims[0], kind.block)
            found.setdefault((8 if kind.weights == "int8" else 4, size), set()).add(node.name)
    return found


def _fitting(rows: int, block: int) -> int:
    """The size of a block, or the half of it and so on, for columns of so many weights."""
    while block > _SMALLEST_BLOCK and -rows % block > _PADDING * rows:
        block //= 2
    return block


def _blocks(model: onnx.ModelProto, nodes: Collection[str], bits: int, size: int) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    settings: dict[str, Any] = {"bits": bits, "block_size": size, "is_symmetric": bits == 8, "accuracy_level": 4}
    others = [node.name for node in model.graph.node if node.name not in nodes]
    with quiet():
        config = DefaultWeightOnlyQuantConfig(**settings)
        quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config, **settings)
        quantizer.process()
        return quantizer.model.model


def _rows(model: onnx.ModelProto, name: str) -> None:
    """An embedding in int8 with a scale per row. ONNX Runtime's own quantizer has one scale for all of them."""
    graph = model.graph
    node = next(node for node in graph.node if node.name == name)
    table = numpy_helper.to_array(_matrices(model)[node.input[0]])
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    stored = {f"{name}.rows": np.rint(table / scales).astype(np.int8), f"{name}.scales": scales.astype(np.float32)}
    for key, array in stored.items():
        if all(tensor.name != key for tensor in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(array, key))
    picked = [f"{name}.picked", f"{name}.picked_scales", f"{name}.cast"]
    place = list(graph.node).index(node)
    written = [
        helper.make_node("Gather", [f"{name}.rows", node.input[1]], [picked[0]], f"{name}.gather"),
        helper.make_node("Gather", [f"{name}.scales", node.input[1]], [picked[1]], f"{name}.gather_scales"),
        helper.make_node("Cast", [picked[0]], [picked[2]], f"{name}.to_float", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [picked[2], picked[1]], list(node.output), name),
    ]
    graph.node.remove(node)
    for offset, each in enumerate(written):
        graph.node.insert(place + offset, each)


def _halves(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Weights of `nodes` in float16 and cast back, which ONNX Runtime does once, when it loads; none that float16 cannot hold."""
    graph, matrices = model.graph, _matrices(model)
    names = {_weight(node) for node in graph.node if node.name in nodes}
    for name in sorted(names & set(matrices)):
        array: NDArray[Any] = numpy_helper.to_array(matrices[name])
        if np.abs(array).max() > HALF_MAX:
            continue
        graph.initializer.remove(matrices[name])
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
        graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.to_float", to=onnx.TensorProto.FLOAT))


def _without_leftovers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without weights that nothing reads any more."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
