"""Images, at the one size that the model or its pre-processing fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import Dimension
from edgeattn.exporters.sources.huggingface.inputs.base import Feed, Part
from edgeattn.exporters.sources.huggingface.inputs.settings import declared, image_settings

PIXELS = "pixel_values"
NAMES = (PIXELS,)


def image(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """Standard normal pixels (B, C, H, W), which is what normalized images look like.

    A model that compares every image with every text (CLIP) takes any number of each, so images have a batch of their own.

    Raises:
        SourceError: neither the config nor the pre-processing says how large an image is.
    """
    size = _size(folder, model)
    shape = (_channels(model), *size)

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        return torch.randn((sizes[batch], *shape), generator=generator)

    batch = "images" if hasattr(model, "logit_scale") else "batch"
    return Part(
        feeds={PIXELS: Feed(draw, {0: batch})},
        dimensions=(Dimension(batch, batch=True),),
        preprocessing={"image": image_settings(folder, PIXELS, size)},
    )


def vision_configs(model: Any) -> list[Any]:
    """Where a config may say what images are: itself, or the part of it that sees."""
    parts = (getattr(model.config, name, None) for name in ("vision_config", "encoder", "backbone_config"))
    return [model.config, *(part for part in parts if part is not None)]


def _channels(model: Any) -> int:
    found = (getattr(config, "num_channels", None) for config in vision_configs(model))
    return int(next((count for count in found if count), 3))


def _size(folder: Path, model: Any) -> tuple[int, int]:
    for config in vision_configs(model):
        size = getattr(config, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
    prepared = declared(folder, "image_processor")
    for size in (prepared.get("crop_size"), prepared.get("size")):
        if isinstance(size, dict) and {"height", "width"} <= set(size):
            return int(size["height"]), int(size["width"])
    raise SourceError(
        f"{folder}: neither config.json (image_size) nor preprocessor_config.json (size) says how large an image is; "
        'add "image_size": [height, width] to config.json'
    )
