"""Store a weight once where a graph has it twice: layers that share theirs, an embedding that is also the last layer."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class ShareWeights(ir.passes.InPlacePass):
    """A matrix that equals another one is that one; one that is another transposed becomes a `Transpose` of it, which
    runtimes fold when they load the file."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        matrices = [value for value in model.graph.initializers.values() if _is_matrix(value)]
        kept: dict[Hashable, ir.Value] = {}
        modified = False
        for value in sorted(matrices, key=lambda value: not _looked_up(value)):  # what is looked up by row stays as it is
            array = _array(value)
            same, turned = kept.get(_corners(array)), kept.get(_corners(array.T))
            if same is not None and np.array_equal(_array(same), array):
                _replace(model.graph, value, same)
            elif turned is not None and np.array_equal(_array(turned), array.T):
                _replace(model.graph, value, _transposed(model.graph, turned))
            else:
                kept.setdefault(_corners(array), value)
                continue
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    used = value.is_graph_output() or not value.uses()
    return tensor is not None and not used and len(tensor.shape) == 2 and min(tensor.shape.numpy()) > 1


def _looked_up(value: ir.Value) -> bool:
    return any(use.node.op_type == "Gather" and use.idx == 0 for use in value.uses())


def _array(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _corners(matrix: NDArray[np.generic]) -> Hashable:
    """Equal for equal matrices, and seldom for others."""
    return (matrix.shape, matrix.dtype.str, *(matrix[i, j].tobytes() for i in (0, -1) for j in (0, -1)))


def _transposed(graph: ir.Graph, original: ir.Value) -> ir.Value:
    graph.insert_before(graph[0], node := ir.node("Transpose", [original], attributes={"perm": [1, 0]}))
    turned = node.outputs[0]
    assert original.shape is not None
    turned.shape, turned.type = ir.Shape(list(original.shape)[::-1]), original.type
    return turned


def _replace(graph: ir.Graph, value: ir.Value, by: ir.Value) -> None:
    """Use `by` wherever the initializer `value` was, and drop it; a value that is computed inherits the name."""
    ir.convenience.replace_all_uses_with(value, by)
    assert value.name is not None
    name = value.name
    del graph.initializers[name]
    if not by.is_initializer():
        by.name = name
