"""The mark of an attention variant: a name, and the options of a small example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def variant(name: str, **options: Any) -> Callable[[_T], _T]:
    """Class decorator: `name` is what `create` knows the class by, `options` make a small module for tests and examples.

    It changes nothing: `edgeattn.models.registry` finds it by reading the file, so every argument has to be a literal.
    """

    def unchanged(cls: _T) -> _T:
        return cls

    return unchanged
