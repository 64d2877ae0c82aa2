"""One part of a model's inputs: a text, an image, a sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgeattn.exporters.sources.base import Dimension

Draw = Callable[[Mapping[str, int], torch.Generator], torch.Tensor]
"""Dynamic sizes and a seeded generator -> a plausible tensor of these sizes."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One input: how to draw it, and the name of each axis that varies."""

    draw: Draw
    axes: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Part:
    """Inputs that belong together, with the sizes they may have and what makes them from a user's data.

    `files`: bundle path -> file to copy, or its content. `settings`: what the manifest keeps of the tokenizer. `preprocessing`: the same of
    images and sounds, as a field of `Preprocessing` -> its settings, or the reason why there are none.
    """

    feeds: dict[str, Feed]
    dimensions: tuple[Dimension, ...]
    files: dict[str, Path | bytes] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)


Maker = Callable[[Path, Any, Sequence[str]], Part]
"""Model folder, loaded model, names of the model's inputs that are the part's -> the part."""
