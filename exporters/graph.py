"""A small builder over onnx-ir's tape: nodes and constants for lowerings, function bodies and probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape

IR_VERSION = 10
"""Written into every model: ONNX Runtime refuses versions it does not know, and 10 covers opset 18 to 24."""


class Builder:
    """Records nodes. Constants become `Constant` nodes, so that the same code builds graphs and function bodies."""

    def __init__(self, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        self.dtype = dtype
        self._tape = tape.Tape()

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """What was recorded so far, in order."""
        return self._tape.nodes

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """One node with one output."""
        return self._tape.op(op_type, list(inputs), attributes, domain=domain)

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """One node with several outputs."""
        return self._tape.op_multi_out(op_type, list(inputs), attributes, num_outputs=outputs, domain=domain)

    def ints(self, *values: int) -> ir.Value:
        """A 1-D int64 constant."""
        return self.op("Constant", value=ir.tensor(np.array(values, dtype=np.int64)))

    def index(self, value: int) -> ir.Value:
        """A scalar int64 constant."""
        return self.op("Constant", value=ir.tensor(np.array(value, dtype=np.int64)))

    def number(self, value: float) -> ir.Value:
        """A scalar constant of the model's float type."""
        return self.op("Constant", value=ir.tensor(np.array(value, dtype=self.dtype.numpy())))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of one axis as a 1-D int64 value."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """Reshape; 0 copies the axis of the same index, -1 is inferred."""
        return self.op("Reshape", value, self.ints(*shape))

    def transpose(self, value: ir.Value, *permutation: int) -> ir.Value:
        """Transpose by a permutation."""
        return self.op("Transpose", value, perm=list(permutation))


def both_orders(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two operands of a node that does not mind their order, one way and the other; none where one is left out."""
    first, second = node.inputs
    if first is not None and second is not None:
        yield first, second
        yield second, first


def stored(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A constant of a whole graph, which several nodes may read."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
