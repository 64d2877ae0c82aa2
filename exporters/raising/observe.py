"""Shapes that inference does not find, observed: the model is run at several sizes, and each axis named after what it follows.

Files of older exporters compute every shape from other shapes, and the standard's inference loses track of them.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.raising.parts import free_symbols, interpreter
from edgeattn.runtimes.base import LoadOptions

Feeds = Mapping[str, NDArray[np.generic]]
_LARGE = 4096
"""Elements from which a weight is replaced by a constant: shapes do not depend on it, and the file stays small."""


def observe_shapes(model: ir.Model, draw: Callable[[Mapping[str, int]], Feeds], grid: Sequence[Mapping[str, int]]) -> None:
    """Name the unknown axes of values in the main graph, in place; `grid` are sizes of the inputs' dynamic dimensions.

    An axis gets a number, a size, a multiple of a product of sizes, or a size and a number, whichever held at every point of
    the grid; else it stays unknown. A model that does not run there keeps its shapes.
    """
    symbols = {name for value in model.graph.inputs for dim in value.shape or () for name in free_symbols(dim)}
    unknown = [value for node in model.graph for value in node.outputs if value.name and not _known(value, symbols)]
    if not unknown:
        return
    try:
        seen = _run(model, [value.name or "" for value in unknown], draw, grid)
    except EdgeAttnError:
        return
    for value in unknown:
        arrays = [at[value.name or ""] for at in seen]
        value.type = value.type or ir.TensorType(ir.DataType.from_numpy(arrays[0].dtype))
        if len({array.ndim for array in arrays}) == 1:
            sizes = zip(*(array.shape for array in arrays), strict=True)
            value.shape = ir.Shape([_named(each, grid) for each in sizes])


def _known(value: ir.Value, symbols: set[str]) -> bool:
    if value.shape is None or value.type is None:
        return False
    return all(isinstance(dim, int) or (dim.value is not None and free_symbols(dim) <= symbols) for dim in value.shape)


def _named(sizes: Sequence[int], grid: Sequence[Mapping[str, int]]) -> int | ir.SymbolicDim:
    if len(set(sizes)) == 1:
        return sizes[0]
    names = list(grid[0])
    for product in (*((name,) for name in names), *itertools.combinations(names, 2)):
        follows = [int(np.prod([point[name] for name in product])) for point in grid]
        factors = {size / base for size, base in zip(sizes, follows, strict=True)}
        if len(factors) == 1 and (factor := factors.pop()) == int(factor):
            text = "*".join(product)
            return ir.SymbolicDim(text if factor == 1 else f"{int(factor)}*{text}")
        steps = {size - base for size, base in zip(sizes, follows, strict=True)}
        if len(steps) == 1 and len(product) == 1:
            return ir.SymbolicDim(f"{product[0]} + {steps.pop()}")
    return ir.SymbolicDim(None)


def _run(
    model: ir.Model, names: Sequence[str], draw: Callable[[Mapping[str, int]], Feeds], grid: Sequence[Mapping[str, int]]
) -> list[Feeds]:
    """The named values at each point of the grid. Raises EdgeAttnError where the model does not run."""
    copy = model.clone()
    _without_weights(copy.graph)
    wanted = {value.name: value for node in copy.graph for value in node.outputs if value.name in set(names)}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(wanted[name] for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shapes.onnx"
        ir.save(copy, path)
        with interpreter().load(path, LoadOptions(device="cpu", spin=False)) as session:
            return [session.run(draw(sizes)) for sizes in grid]


def _without_weights(graph: ir.Graph) -> None:
    first = next(iter(graph))
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.size < _LARGE or not tensor.dtype.is_floating_point():
            continue
        shape = ir.node("Constant", [], {"value": ir.tensor(tensor.shape.numpy(), dtype=ir.DataType.INT64)})
        fill = ir.tensor(np.full(1, 0.01, dtype=tensor.dtype.numpy()))
        filled = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": fill})
        filled.outputs[0].name = f"{value.name}_filled"
        graph.insert_before(first, [shape, filled])
        ir.convenience.replace_all_uses_with(value, filled.outputs[0])
        graph.initializers.pop(value.name or "")
