"""A part of a graph on its own: what a value depends on, and what it is at given sizes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import IR_VERSION
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

_LARGEST = 500
"""Nodes up to which a part is looked at: masks are built in tens, a model's trunk in thousands."""

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Part:
    """How `outputs` come about: by `nodes`, from graph inputs (`read`) and from the sizes alone of other values (`sized`)."""

    graph: ir.Graph
    outputs: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    read: tuple[ir.Value, ...]
    sized: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]

    @property
    def leaves(self) -> tuple[ir.Value, ...]:
        """What has to be fed."""
        return (*self.read, *self.sized)

    def symbols(self) -> set[str]:
        """The names of the sizes it depends on."""
        return {name for value in self.leaves for dim in value.shape or () for name in free_symbols(dim)}


def part(outputs: Sequence[ir.Value], symbols: set[str]) -> Part | None:
    """The part that computes `outputs` from graph inputs and from sizes, named by `symbols`.

    None where it is large, of foreign operators, with branches, or reads anything else: weights may be read.
    """
    graph = next((value.graph for value in outputs if value.graph is not None), None)
    if graph is None:
        return None
    queue, nodes, known = list(outputs), dict[ir.Node, None](), set[ir.Value]()
    read, sized, constants = (dict[ir.Value, None]() for _ in range(3))
    while queue:
        value = queue.pop()
        node = value.producer()
        if value in known:
            continue
        known.add(value)
        if ir.convenience.get_const_tensor(value) is not None:
            constants[value] = None
            if node is not None:
                nodes[node] = None
        elif node is None:
            if not value.is_graph_input():
                return None
            read[value] = None
        elif not _plain(node, graph) or len(nodes) > _LARGEST:
            return None
        else:
            nodes[node] = None
            first = node.inputs[0] if node.inputs else None
            if node.op_type in ("Shape", "Size") and first is not None and _has_size(first, symbols):
                sized[first] = None
            else:
                queue += [x for x in node.inputs if x is not None]
    only_sized = tuple(value for value in sized if value not in known)
    order = {node: i for i, node in enumerate(graph)}
    return Part(graph, tuple(outputs), tuple(sorted(nodes, key=order.__getitem__)), tuple(read), only_sized, tuple(constants))


def _plain(node: ir.Node, graph: ir.Graph) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return node.domain == "" and node.graph is graph and not any(a.type in graphs for a in node.attributes.values())


def _has_size(value: ir.Value, symbols: set[str]) -> bool:
    """Whether every axis is a number or follows from `symbols`."""
    if value.is_initializer() or value.shape is None or value.dtype is None:
        return False
    return all(isinstance(dim, int) or (dim.value is not None and free_symbols(dim) <= symbols) for dim in value.shape)


def free_symbols(dim: int | ir.SymbolicDim) -> set[str]:
    """The names in a size."""
    return set() if isinstance(dim, int) or dim.value is None else set(dim.free_symbols())


def size_at(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | None:
    """A size where the names have these values; None where that does not say it."""
    if isinstance(dim, int):
        return dim
    if dim.value is None or not set(dim.free_symbols()) <= set(sizes):
        return None
    found = dim.evaluate(dict(sizes))
    return found if isinstance(found, int) else None


def shape_at(value: ir.Value, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """A shape where the names have these values."""
    found = [size_at(dim, sizes) for dim in value.shape] if value.shape is not None else [None]
    return None if None in found else tuple(size for size in found if size is not None)


@contextlib.contextmanager
def running(piece: Part) -> Iterator[Session]:
    """The part as a model of its own, with the leaves as inputs and outputs `0`, `1`, ... on a runtime that is here."""
    graph = ir.convenience.extract(piece.graph, piece.leaves, piece.outputs)
    for index, value in enumerate(list(graph.outputs)):
        named = ir.node("Identity", [value], name=f"edgeattn_output_{index}")
        named.outputs[0].name, named.outputs[0].type, named.outputs[0].shape = str(index), value.type, value.shape
        graph.append(named)
        graph.outputs[index] = named.outputs[0]
    graph.opset_imports.update({"": piece.graph.opset_imports[""]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        ir.save(ir.Model(graph, ir_version=IR_VERSION), path)
        with interpreter().load(path, LoadOptions(device="cpu", spin=False)) as session:
            yield session


def interpreter() -> Runtime:
    """ONNX Runtime where it is installed, else onnx's own evaluator."""
    runtime = registry.get("onnxruntime")
    return runtime if runtime.check().ok else registry.get("reference")
