"""Conditions on sizes that torch.export cannot prove by itself, such as min(n + 1, 2 n + 2) == n + 1: tried instead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import sympy
import torch
from torch.export import ExportedProgram

_SIZES = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    15,
    16,
    17,
    31,
    33,
    64,
    100,
    127,
    128,
    129,
    255,
    256,
    257,
    511,
    512,
    513,
    1000,
    2048,
    4097,
    100_003,
)


def is_unproven(error: Exception) -> bool:
    """Whether torch.export failed because a condition on sizes may not hold, not because a size became a number."""
    return "Constraints violated" in str(error) and "specialized it to be a constant" not in str(error)


def conditions_hold(program: ExportedProgram) -> bool:
    """Whether what the program asserts of its sizes is true of every size tried, within their limits."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        value = node.args[0].meta.get("val") if isinstance(node.args[0], torch.fx.Node) else node.args[0]
        if isinstance(value, torch.SymBool):
            condition = value.node.expr
            if not all(bool(condition.subs(sizes)) for sizes in _choices(program, condition)):
                return False
        elif value is not True:
            return False
    return True


def _choices(program: ExportedProgram, condition: sympy.Basic) -> Iterator[dict[sympy.Basic, int]]:
    symbols = sorted(condition.free_symbols, key=str)
    possible = [_possible(program, symbol) for symbol in symbols]
    yield from (dict(zip(symbols, sizes, strict=True)) for sizes in itertools.product(*possible))


def _possible(program: ExportedProgram, symbol: sympy.Basic) -> list[int]:
    bounds = program.range_constraints.get(symbol)
    if bounds is None:
        return list(_SIZES)
    limits = [int(side) for side in (bounds.lower, bounds.upper) if 0 < side < 1 << 31]
    return [size for size in sorted({*_SIZES, *limits}) if bounds.lower <= size <= bounds.upper]
