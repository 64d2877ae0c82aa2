"""A `torch.export` program, saved as `.pt2` or live: its own graph, sizes and example inputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
import torch
from torch._higher_order_ops.flex_attention import flex_attention
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.archive import check_archive
from edgeattn.exporters.sources.base import Dimension, Source
from edgeattn.exporters.sources.sampling import draw_for

_UNSAID = 3
"""Size of an axis in an example that the program does not bring; between a program's limits."""


def from_archive(path: Path) -> Source:
    """The source of a `.pt2` file that torch.export.save wrote.

    Raises:
        SourceError: another kind of file, one that holds pickles, or one that this version of torch cannot read.
    """
    check_archive(path)
    try:
        with _quiet():
            program = torch.export.load(path)
    except Exception as error:
        raise SourceError(
            f"{path} cannot be loaded by torch {torch.__version__}: {type(error).__name__}: {str(error).strip():.300}; "
            "fix: save it again with this version of torch, with the packages of its own operators imported"
        ) from error
    source = from_program(program, path.name)
    return replace(source, provenance={"file": path.name})


def from_program(program: ExportedProgram, name: str = "program") -> Source:
    """The source of a live program; its inputs are called as the arguments of the exported forward.

    Raises:
        SourceError: sizes or inputs that a graph cannot have.
    """
    _check_operators(program, name)
    leaves = _leaves(program, name)
    names = [leaf.name for leaf in leaves if leaf.constant is None]
    if not names:
        raise SourceError(f"{name}: the program takes no tensor")
    shapes = _shapes(program, names)
    dynamic, dimensions = _axes(program, shapes, name)
    examples = _examples(program, leaves, shapes, dynamic, dimensions)
    return Source(
        name=name,
        kind="program",
        module=ProgramModule(program, leaves),
        inputs=examples,
        dynamic=dynamic,
        dimensions=dimensions,
        program=program if _is_plain(program) else None,
    )


@dataclass(frozen=True, slots=True)
class _Leaf:
    """An argument of the program: a tensor by its name, or the constant it was exported for."""

    name: str
    constant: ConstantArgument | None = None


class ProgramModule(torch.nn.Module):
    """A program called with its tensors by name; constants are filled in, nested arguments put together."""

    def __init__(self, program: ExportedProgram, leaves: list[_Leaf]) -> None:
        super().__init__()
        # guards would be compiled from text of the file, and say nothing that the checked sizes do not say
        self.program = program.module(check_guards=False)
        self.leaves = leaves
        self.spec = program.call_spec.in_spec

    def train(self, mode: bool = True) -> ProgramModule:
        """A program has one mode, that in which it was exported."""
        return self

    def forward(self, **tensors: torch.Tensor) -> Any:
        """What the program returns."""
        flat = [tensors[leaf.name] if leaf.constant is None else leaf.constant.value for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        return self.program(*args, **kwargs)


def _check_operators(program: ExportedProgram, name: str) -> None:
    if program.graph.find_nodes(op="call_function", target=flex_attention):
        raise SourceError(
            f"{name} holds flex_attention with its block masks computed in the graph; fix: export the module itself, not its program"
        )


def _leaves(program: ExportedProgram, name: str) -> list[_Leaf]:
    leaves = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        if isinstance(spec.arg, TensorArgument):
            leaves.append(_Leaf(spec.arg.name))
        elif isinstance(spec.arg, ConstantArgument):
            leaves.append(_Leaf(spec.arg.name, spec.arg))
        else:
            raise SourceError(
                f"{name}: input {getattr(spec.arg, 'name', '?')!r} is a {type(spec.arg).__name__.removesuffix('Argument')}; "
                "inputs must be tensors: export the program with the number fixed, or as a tensor"
            )
    return leaves


def _shapes(program: ExportedProgram, names: list[str]) -> dict[str, torch.Tensor]:
    """The placeholders' descriptions by name."""
    found = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return {name: found[name] for name in names}


def _axes(
    program: ExportedProgram, shapes: Mapping[str, torch.Tensor], name: str
) -> tuple[dict[str, dict[int, str]], dict[str, Dimension]]:
    """The program's symbols as named dimensions: an axis 0 is `batch`, the first other axis 1 `sequence`."""
    axes: dict[str, dict[int, str]] = {}
    names: dict[sympy.Expr, str] = {}
    dimensions: dict[str, Dimension] = {}
    for key, value in shapes.items():
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                continue
            symbol = size.node.expr
            if not isinstance(symbol, sympy.Symbol):
                raise SourceError(
                    f"{name}: axis {axis} of {key!r} is {symbol}; a size computed from another is not supported: "
                    "export the program with a dimension of its own there, or a fixed size"
                )
            if symbol not in names:
                names[symbol] = _dimension_name(key, axis, set(names.values()))
                dimensions[names[symbol]] = _dimension(names[symbol], program.range_constraints.get(symbol), axis)
            axes.setdefault(key, {})[axis] = names[symbol]
    return axes, dimensions


def _dimension_name(key: str, axis: int, taken: set[str]) -> str:
    usual = ("batch", "sequence")[axis] if axis < 2 else ""
    return usual if usual and usual not in taken else f"{key}_axis{axis}"


def _dimension(name: str, bounds: Any, axis: int) -> Dimension:
    lower, upper = (getattr(bounds, side, None) for side in ("lower", "upper"))
    limit = int(upper) if isinstance(upper, int | sympy.Integer) and upper < 1 << 31 else None
    least = max(1, int(lower)) if isinstance(lower, int | sympy.Integer) else 1
    return Dimension(name, limit=limit, batch=axis == 0, least=least)


def _examples(
    program: ExportedProgram,
    leaves: list[_Leaf],
    shapes: Mapping[str, torch.Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    dimensions: Mapping[str, Dimension],
) -> dict[str, torch.Tensor]:
    """The program's own example, else one drawn to fit its graph."""
    if program.example_inputs:
        flat = pytree.tree_leaves(program.example_inputs, is_leaf=lambda x: x is None)
        given = {leaf.name: value for leaf, value in zip(leaves, flat, strict=True) if leaf.constant is None}
        if all(value.numel() for value in given.values()):
            return given
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, value in shapes.items():
        named = dynamic.get(name, {})
        shape = tuple(dimensions[named[i]].bounded(_UNSAID) if i in named else int(n) for i, n in enumerate(value.shape))
        drawn[name] = draw_for(program.graph, name, value.dtype, shape, generator)
    return drawn


def _is_plain(program: ExportedProgram) -> bool:
    """Whether the graph's own outputs are the model's: tensors only, nothing changed in place beside them."""
    specs = program.graph_signature.output_specs
    return all(isinstance(spec.arg, TensorArgument) and spec.kind is OutputKind.USER_OUTPUT for spec in specs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's log of a failed load, with its traceback, off the screen; the error itself is told."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
