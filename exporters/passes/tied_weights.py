"""Store a weight once where a model has it twice, as it is and transposed: an embedding that is also the last layer."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class ShareTransposed(ir.passes.InPlacePass):
    """A matrix that is another one transposed becomes a `Transpose` of it, which runtimes fold when they load the file."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        matrices = [value for value in model.graph.initializers.values() if _is_matrix(value)]
        # what is looked up by row stays as it is
        kept: dict[Hashable, ir.Value] = {}
        modified = False
        for value in sorted(matrices, key=lambda value: not _looked_up(value)):
            original = kept.get(_corners(_array(value).T))
            if original is not None and np.array_equal(_array(original), _array(value).T):
                _transpose(model.graph, original, value)
                modified = True
            else:
                kept.setdefault(_corners(_array(value)), value)
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


def _transpose(graph: ir.Graph, original: ir.Value, value: ir.Value) -> None:
    """Replace the initializer `value` by a transposition of `original`."""
    node = ir.node("Transpose", [original], attributes={"perm": [1, 0]})
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph.insert_before(graph[0], node)
    ir.convenience.replace_all_uses_with(value, node.outputs[0])
    assert value.name is not None
    name = value.name
    del graph.initializers[name]
    node.outputs[0].name = name
