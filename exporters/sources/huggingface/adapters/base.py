"""The contract of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Adapter:
    """For models that hold a module of one of `classes` (names of transformers' classes).

    `exporting(model)` is entered while the graph is captured, and only then: it makes the family's attention arrive at
    `edgeattn.models.functional.attention`. `interface` says whether transformers' interface is switched as well.
    """

    classes: Sequence[str]
    exporting: Callable[[Any], AbstractContextManager[None]]
    interface: bool = False
