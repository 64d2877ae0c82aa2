"""What a causal language model is as a graph that goes on from what was read: with a key/value cache, or with states."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from edgeattn.exporters.sources.base import Dimension, Sampler
from edgeattn.manifest import LOGITS

KEPT = "kept"
"""The dimension of `logits_to_keep`."""
_SHARES = (1, 7, 3, 33, 2)
"""Numbers of positions whose logits are kept, which parity is proven at."""


@dataclass(frozen=True, slots=True)
class StepForm:
    """The parts of a source that the kind of its memory decides; `example` are the sizes of its example inputs, and `present` the
    outputs that are fed again."""

    module: torch.nn.Module
    dynamic: dict[str, dict[int, str]]
    dimensions: tuple[Dimension, ...]
    draw: Sampler
    example: dict[str, int]
    present: list[str]
    exporting: Callable[[], AbstractContextManager[None]]
    shaken: Callable[[], AbstractContextManager[None]] | None = None
    """As of a source: within it, what is read is off in its last place."""
    front_padding: bool = False
    """Whether padding belongs in front of a row alone."""

    @property
    def outputs(self) -> list[str]:
        """The logits, and what is fed again."""
        return [LOGITS, *self.present]


def kept(limit: int | None) -> Dimension:
    """How many positions' logits come out."""
    return Dimension(KEPT, limit=limit, tried=_SHARES)
