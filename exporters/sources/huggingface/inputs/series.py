"""Time series: as many past values as the model looks back on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import Dimension
from edgeattn.exporters.sources.huggingface.inputs.base import Feed, Part

PAST = "past_values"
NAMES = (PAST,)


def series(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """Random walks (B, context_length, channels): series with a level and a trend, not noise.

    Raises:
        SourceError: the config does not say how long the past is, or of how many channels.
    """
    config = model.config
    length, channels = getattr(config, "context_length", None), getattr(config, "num_input_channels", None)
    if not length or not channels:
        raise SourceError(
            f"{folder}: {type(model).__name__} takes {PAST}, but config.json lacks context_length or num_input_channels, "
            "so its shape is not known"
        )

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        return torch.randn((sizes["batch"], int(length), int(channels)), generator=generator).cumsum(dim=1)

    return Part({PAST: Feed(draw, {0: "batch"})}, (Dimension("batch", batch=True),))
