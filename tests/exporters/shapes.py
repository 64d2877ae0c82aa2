"""How large the values of a lowered model are, by shape inference and without running it."""

from __future__ import annotations

import math

import onnx_ir as ir
from onnxscript import optimizer

_ANY_SIZE = 1 << 40


def largest_tensor(model: ir.Model, batch: int, length: int) -> int:
    """Elements of the largest value that a probe's model computes at `batch` rows with `length` queries and keys.

    Bounds computed from a length are folded to numbers first, since plain shape inference stops there.

    Raises:
        AssertionError: the shape of a value is not known, so nothing can be said.
    """
    sized = model.clone()
    sizes = {"batch": batch, "queries": length, "keys": length}
    for value in (*sized.graph.inputs, *sized.graph.outputs):
        value.shape = ir.Shape([dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape or ()])
    for node in sized.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    optimizer.fold_constants(sized, onnx_shape_inference=True, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    values = [value for node in sized.graph for value in node.outputs if value.name]
    unknown = [value.name for value in values if value.shape is None or not value.shape.is_static()]
    assert not unknown, f"no shape is known for {unknown[:5]} ({len(unknown)} values)"
    return max(_elements(value) for value in (*values, *sized.graph.initializers.values()))


def _elements(value: ir.Value) -> int:
    return math.prod(value.shape.numpy()) if value.shape is not None else 0
