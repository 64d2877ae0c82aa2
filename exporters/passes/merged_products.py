"""Products of one input as one: queries, keys and values, or a gate and what it opens."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.manifest import PAST


class MergeProducts(ir.passes.InPlacePass):
    """In a decoder, one product with all weights side by side, split again behind it: a product of a single row is over so soon
    that calling it counts. Numbers stay what they were. Weights that something else reads stay apart, and so does
    everything in a model without a cache, whose longer inputs pay for the copies of the split and gain nothing.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        groups = _alike(model.graph) if _has_cache(model.graph) else []
        for nodes in groups:
            _merge(model.graph, nodes)
        return ir.passes.PassResult(model, modified=bool(groups))


def _has_cache(graph: ir.Graph) -> bool:
    return any(PAST in map(str, value.shape or ()) for value in graph.inputs)


def _alike(graph: ir.Graph) -> list[list[ir.Node]]:
    """Products that read one input, two or more, each with weights of its own."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        source, weight = (*node.inputs, None, None)[:2]
        if node.op_type == "MatMul" and node.domain == "" and source is not None and weight is not None and _own(weight):
            found.setdefault(source, []).append(node)
    return [nodes for nodes in found.values() if len(nodes) > 1]


def _own(weight: ir.Value) -> bool:
    tensor = weight.const_value
    return weight.is_initializer() and tensor is not None and len(tensor.shape) == 2 and len(weight.uses()) == 1


def _merge(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    weights = [weight for node in nodes if (weight := node.inputs[1]) is not None]
    tensors = [tensor for weight in weights if (tensor := weight.const_value) is not None]
    widths = [int(tensor.shape.numpy()[1]) for tensor in tensors]
    merged = _initializer(graph, "+".join(str(weight.name) for weight in weights), _side_by_side(tensors))
    sizes = np.array(widths, dtype=np.int64)
    product = ir.node("MatMul", [nodes[0].inputs[0], merged], metadata_props=dict(nodes[0].metadata_props))
    split = ir.node(
        "Split",
        [product.outputs[0], _initializer(graph, f"{merged.name}.sizes", ir.tensor(sizes))],
        attributes={"axis": -1},
        num_outputs=len(nodes),
    )
    product.name = "+".join(str(node.name) for node in nodes)
    first = nodes[0].outputs[0]
    if first.shape is not None:
        product.outputs[0].shape = ir.Shape([*first.shape.dims[:-1], sum(widths)])
    product.outputs[0].type = first.type
    graph.insert_before(nodes[0], [product, split])
    for node, part in zip(nodes, split.outputs, strict=True):
        old = node.outputs[0]
        part.name, part.shape, part.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, part, replace_graph_outputs=True)
    graph.remove(nodes, safe=True)
    for weight in weights:
        graph.initializers.pop(str(weight.name))


def _side_by_side(tensors: list[ir.TensorProtocol]) -> ir.TensorProtocol:
    """[I, O] each -> [I, all O], joined when it is written: the parts are the model's own, and large."""
    rows, columns = tensors[0].shape.numpy()[0], sum(tensor.shape.numpy()[1] for tensor in tensors)

    def joined() -> ir.TensorProtocol:
        parts: list[NDArray[np.generic]] = [tensor.numpy() for tensor in tensors]
        return ir.tensor(np.concatenate(parts, axis=1))

    return ir.LazyTensor(joined, dtype=tensors[0].dtype, shape=ir.Shape([rows, columns]))


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
