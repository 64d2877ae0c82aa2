"""Inputs of other sizes than the example, drawn so that they stay plausible for the model."""

from __future__ import annotations

import torch


def sample_like(example: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A tensor of `shape` and the example's dtype.

    Floats are normal with the example's mean and deviation. Integers and booleans are drawn from the example's own
    values, so that token ids stay inside a vocabulary nobody told us; so are floats with infinities among them, which
    are masks.
    """
    if example.numel() == 0:
        raise ValueError("an example tensor must not be empty")
    if example.is_floating_point() and bool(torch.isfinite(example).all()):
        spread = float(example.float().std()) if example.numel() > 1 else 1.0
        noise = torch.randn(shape, generator=generator) * (spread or 1.0) + float(example.float().mean())
        return noise.to(example.dtype)
    values = example.flatten()
    return values[torch.randint(values.numel(), shape, generator=generator)]


def draw_for(
    graph: torch.fx.Graph, name: str, dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """A tensor for the placeholder `name` of a graph that brings no example.

    Floats are normal. Integers are below the length of every table that they index, and 0 or 1 where they index none;
    an input called like a mask is all ones.
    """
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=dtype)
    if dtype is torch.bool or "mask" in name:
        return torch.ones(shape, dtype=dtype)
    tables = [rows for node in graph.nodes if node.name == name for rows in _tables(node)]
    return torch.randint(min(tables, default=2), shape, generator=generator).to(dtype)


def _tables(node: torch.fx.Node) -> list[int]:
    """Lengths of the tables that a value indexes, itself or converted."""
    found: list[int] = []
    for user in node.users:
        table = user.args[0] if user.args else None
        if user.target is torch.ops.aten.embedding.default and isinstance(table, torch.fx.Node):
            found.append(int(table.meta["val"].shape[0]))
        elif user.target in (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default, torch.ops.aten.view.default):
            found += _tables(user)
    return found
