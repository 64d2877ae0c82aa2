"""Inputs of an ONNX graph: their dynamic dimensions, and values that are plausible for what reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension

_PASSING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice", "Transpose"})
"""Operators behind which an index is still an index."""
_DEPTH = 6
_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
}
_EMBEDDED = {0: 2, 1: 4, 8: 3}
"""Inputs of EmbedLayerNormalization that index, and the tables that they index."""


@dataclass(frozen=True, slots=True)
class Input:
    """One graph input. `bound`: its whole numbers are below it, the rows of the smallest table that they index."""

    name: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]
    bound: int | None

    @property
    def marks(self) -> bool:
        """Whether its name says that it marks positions, and so is drawn as all ones."""
        return self.name.endswith(PADDING_INPUT) or (self.dtype is torch.bool and "mask" in self.name)

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        """A tensor of the given sizes."""
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in self.dims]
        if self.marks:
            return torch.ones(shape, dtype=self.dtype)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(self.dtype)
        return torch.randint(self.bound or 2, shape, generator=generator).to(self.dtype)


def read_inputs(model: ir.Model) -> list[Input]:
    """The inputs of a model, in order. Dimensions are named, in the model as well, where the file does not name them.

    Raises:
        SourceError: an input that is no tensor, or of a type that cannot be fed.
    """
    graph = model.graph
    inputs = []
    for value in [value for value in graph.inputs if not value.is_initializer()]:
        if value.shape is None or value.dtype is None:
            raise SourceError(f"input {value.name!r} has no {'type' if value.dtype is None else 'shape'}; the file must say it")
        dims = [_dimension(value, axis) for axis in range(len(value.shape))]
        value.shape = ir.Shape([dim if isinstance(dim, int) else ir.SymbolicDim(dim) for dim in dims])
        inputs.append(Input(value.name or "", _dtype(value), tuple(dims), min(_rows(value), default=None)))
    return inputs


def dimensions(inputs: list[Input]) -> dict[str, Dimension]:
    """Every dynamic dimension; one that is always the first axis is the batch."""
    places: dict[str, set[int]] = {}
    for each in inputs:
        for axis, dim in enumerate(each.dims):
            if isinstance(dim, str):
                places.setdefault(dim, set()).add(axis)
    return {name: Dimension(name, batch=axes == {0}) for name, axes in places.items()}


def _dtype(value: ir.Value) -> torch.dtype:
    assert value.dtype is not None
    found = _DTYPES.get(value.dtype)
    if found is None:
        raise SourceError(f"input {value.name!r} is {value.dtype.name}, which cannot be fed; expected numbers or booleans")
    return found


def _dimension(value: ir.Value, axis: int) -> int | str:
    """A size, or a name that is an identifier; without one, `batch` for the first axis and `sequence` for the second of two."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int) and dim > 0:
        return dim
    said = None if isinstance(dim, int) else dim.value
    name = re.sub(r"\W+", "_", said or "").strip("_")
    if name:
        return name if not name[0].isdigit() else f"dim_{name}"
    if axis == 0:
        return "batch"
    return (
        "sequence" if axis == 1 and len(value.shape) == 2 else f"{re.sub(r'[^0-9a-zA-Z]+', '_', value.name or 'input')}_{axis}"
    )


def _rows(value: ir.Value, depth: int = _DEPTH) -> Iterator[int]:
    """Lengths of the tables that a value indexes."""
    if not depth:
        return
    for use in value.uses():
        node = use.node
        if node.op_type == "Gather" and use.idx == 1:
            yield from _length(node.inputs[0], node.attributes.get_int("axis", 0))
        elif node.op_type == "EmbedLayerNormalization" and use.idx in _EMBEDDED:
            yield from _length(node.inputs[_EMBEDDED[use.idx]], 0)
        elif node.op_type in _PASSING and use.idx == 0:
            yield from _rows(node.outputs[0], depth - 1)


def _length(table: ir.Value | None, axis: int) -> Iterator[int]:
    size = None if table is None or table.shape is None else table.shape[axis]
    if isinstance(size, int):
        yield size
