"""Numbers to try a modifier with: sizes for the program's symbols, tensors for what it captured, positions to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node

_SHORT, _LONG, _MOST = 1024, 8192, 65536
"""Lengths tried where the program has no limit: with captured tables of that size twice, without, and at most."""
_DENSE = 48
"""The first positions, all of which are tried."""


class Samples:
    """One draw. Known weights and buffers keep their values; what the program computes is random.

    `top`: integers are drawn below it, since nothing says whether they are lengths, document numbers or indices.
    """

    def __init__(self, program: ExportedProgram, seed: int, top: int, sizes: Callable[[sympy.Symbol], int]) -> None:
        self._program, self._top, self._size = program, top, sizes
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: dict[Node, Any] = {}

    def number(self, size: int | torch.SymInt) -> int:
        """A size of the program as a number."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        return int(expression.subs({symbol: self._size(symbol) for symbol in expression.free_symbols}))

    def captured(self, value: Any) -> Any:
        """A value for what a modifier captured."""
        if not isinstance(value, Node):
            return value
        if value not in self._drawn:
            known = known_value(self._program, value)
            self._drawn[value] = self._draw(value.meta["val"]) if known is None else known
        return self._drawn[value]

    def _draw(self, like: Any) -> Any:
        if isinstance(like, torch.SymInt | int):
            return self.number(like)
        shape = [self.number(size) for size in like.shape]
        if like.dtype.is_floating_point:
            return torch.randn(shape, generator=self._generator, dtype=torch.float32).to(like.dtype)
        if like.dtype is torch.bool:
            return torch.rand(shape, generator=self._generator) > 0.5
        least = -2 if self._top > 2 else 0
        return torch.randint(least, self._top, shape, generator=self._generator).to(like.dtype)


def known_value(program: ExportedProgram, node: Node) -> torch.Tensor | None:
    """The tensor behind a node that is a weight, a buffer or a constant."""
    signature = program.graph_signature
    target = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }.get(node.name)
    if target is None:
        return None
    value = program.state_dict.get(target, program.constants.get(target))
    return value.detach() if isinstance(value, torch.Tensor) else None


def longest(square_tables: bool, constants: set[int]) -> int:
    """The length to try where a length is free: beyond twice every constant, so that no window looks like a causal mask."""
    return _SHORT if square_tables else min(_MOST, max(_LONG, 2 * max(constants, default=0) + 64))


def positions(length: int, constants: set[int]) -> torch.Tensor:
    """Positions below `length`: the first ones, those near every constant, from the start, the middle and the end."""
    near = {anchor + sign * constant + d for constant in {0, *constants} for anchor in (0, length // 2, length - 1)
            for sign in (-1, 1) for d in range(-2, 3)}  # fmt: skip
    chosen = {*range(_DENSE), *near}
    return torch.tensor(sorted(place for place in chosen if 0 <= place < length))
