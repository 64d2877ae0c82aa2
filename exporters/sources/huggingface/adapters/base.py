"""The contract of an adapter, and what adapters are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MethodType
from typing import Any


@dataclass(frozen=True, slots=True)
class Adapter:
    """For models that hold a module of one of `classes` (names of transformers' classes).

    `exporting(model)` is entered while the graph is captured, and only then: it makes the family's attention arrive at
    `edgeattn.models.functional.attention`. `interface` says whether the models around these modules are switched to our
    attention and mask interfaces as well, so that their masks arrive as patterns.
    """

    classes: Sequence[str]
    exporting: Callable[[Any], AbstractContextManager[None]]
    interface: bool = False


def replacing(forwards: Mapping[str, Callable[..., Any]]) -> Callable[[Any], AbstractContextManager[None]]:
    """An adapter's `exporting`: the `forward` of every module of a named class is replaced by the one given for it."""

    @contextlib.contextmanager
    def exporting(model: Any) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in model.modules():
                if (forward := forwards.get(type(module).__name__)) is not None:
                    stack.enter_context(changed(module, "forward", MethodType(forward, module)))
            yield

    return exporting


@contextlib.contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` while open; afterwards what it was, on the instance or the class."""
    own = vars(owner)
    present, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if present:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
