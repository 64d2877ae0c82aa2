"""A live module with example inputs, checked and turned into a Source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import Dimension, Source

DynamicAxes = Mapping[str, Mapping[int, Any]]
"""Input name -> {axis: symbol}; a symbol is a name, or a torch.export.Dim where it has a largest size."""


def from_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    dynamic: DynamicAxes | None = None,
    name: str = "",
    kind: str = "module",
) -> Source:
    """A Source of `module` called with `inputs` by keyword.

    Raises:
        SourceError: something other than a module and named tensors, or axes that the inputs do not have.
    """
    name = name or type(module).__name__
    _check_module(module, name)
    tensors = _check_inputs(inputs, name)
    axes, dimensions = _axes(tensors, dynamic or {}, name)
    return Source(name, kind, module.eval(), tensors, axes, dimensions)


def _check_module(module: object, name: str) -> None:
    if not isinstance(module, torch.nn.Module):
        raise SourceError(
            f"{name}: expected a torch.nn.Module, got {type(module).__name__}; return the instance, not its class"
        )


def _check_inputs(inputs: object, name: str) -> dict[str, torch.Tensor]:
    if not isinstance(inputs, Mapping) or not inputs:
        raise SourceError(f"{name}: inputs must be a non-empty dict of name -> tensor, got {_kind(inputs)}")
    for key, value in inputs.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise SourceError(f"{name}: inputs must map names to tensors, got {key!r}: {_kind(value)}")
        if value.numel() == 0:
            raise SourceError(f"{name}: input {key!r} is empty (shape {tuple(value.shape)}); give a real example")
    return dict(inputs)


def _axes(
    inputs: dict[str, torch.Tensor], dynamic: object, name: str
) -> tuple[dict[str, dict[int, str]], dict[str, Dimension]]:
    if not isinstance(dynamic, Mapping):
        raise SourceError(f"{name}: dynamic must be a dict of input name -> {{axis: symbol}}, got {_kind(dynamic)}")
    axes: dict[str, dict[int, str]] = {}
    dimensions: dict[str, Dimension] = {}
    sizes: dict[str, int] = {}
    for key, declared in dynamic.items():
        if key not in inputs:
            raise SourceError(f"{name}: dynamic names input {key!r}; the inputs are {', '.join(inputs)}")
        if not isinstance(declared, Mapping):
            raise SourceError(f"{name}: dynamic[{key!r}] must be {{axis: symbol}}, got {_kind(declared)}")
        for axis, symbol in declared.items():
            if not isinstance(axis, int) or not 0 <= axis < inputs[key].ndim:
                raise SourceError(f"{name}: dynamic[{key!r}] names axis {axis!r}; the input has axes 0..{inputs[key].ndim - 1}")
            dimension = _dimension(symbol, axis, name)
            axes.setdefault(key, {})[axis] = dimension.name
            _check_size(int(inputs[key].shape[axis]), f"{name}: axis {axis} of {key!r}", dimension, sizes)
            dimensions.setdefault(dimension.name, dimension)
    return axes, dimensions


def _check_size(size: int, where: str, dimension: Dimension, sizes: dict[str, int]) -> None:
    """One symbol is one size, and the example keeps to what was declared."""
    if sizes.setdefault(dimension.name, size) != size:
        raise SourceError(f"{where} is {size} where another axis called {dimension.name!r} is {sizes[dimension.name]}")
    if dimension.bounded(size) != size:
        raise SourceError(
            f"{where} is {size}, but {dimension.name!r} is declared as {dimension.least} to {dimension.limit or 'any size'}"
        )


def _dimension(symbol: object, axis: int, name: str) -> Dimension:
    """A symbol on axis 0 counts as the batch."""
    if isinstance(symbol, str) and symbol.isidentifier():
        return Dimension(symbol, batch=axis == 0)
    label = getattr(symbol, "__name__", None)
    if isinstance(label, str) and label.isidentifier():  # a derived Dim, 2 * n, has no name of its own
        least, largest = getattr(symbol, "min", None), getattr(symbol, "max", None)
        return Dimension(
            label,
            limit=largest if isinstance(largest, int) and largest < 1 << 31 else None,
            batch=axis == 0,
            least=max(1, least) if isinstance(least, int) else 1,
        )
    raise SourceError(f"{name}: a dynamic axis needs a name such as 'batch' or a torch.export.Dim, got {symbol!r}")


def _kind(value: object) -> str:
    return f"{type(value).__name__}" if not isinstance(value, str) else repr(value)
