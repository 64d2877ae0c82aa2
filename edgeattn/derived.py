"""Dimensions that follow from others, such as `sequence + past`."""

from __future__ import annotations

from collections.abc import Mapping


def is_derived(dim: int | str) -> bool:
    """Whether a dimension is neither a number nor a name of its own."""
    return isinstance(dim, str) and not dim.isidentifier()


def derived_size(dim: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a sum of products of dimensions and numbers; None for any other form, or where `sizes` lacks one of them."""
    total = 0
    for term in dim.split("+"):
        product = 1
        for factor in term.split("*"):
            name = factor.strip()
            size = int(name) if name.isdecimal() and len(name) < 10 else sizes.get(name)
            if size is None:
                return None
            product *= size
        total += product
    return total
