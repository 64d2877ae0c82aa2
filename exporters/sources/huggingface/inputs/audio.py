"""Sound: raw samples for models that convolve them, log-mel frames for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension
from edgeattn.exporters.sources.huggingface.inputs.base import Feed, Part
from edgeattn.exporters.sources.huggingface.inputs.settings import audio_settings

SOUND, FEATURES = "input_values", "input_features"
SOUND_NAMES = (SOUND, PADDING_INPUT)
FEATURE_NAMES = (FEATURES,)
_FRAMES = (2, 7, 49, 99, 149)
"""Frames behind the convolutions that are tried; of a single one, torch.export would make a constant."""


def sound(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """`input_values`: samples (B, samples), or a spectrogram (B, frames, bins).

    Raises:
        SourceError: a config that says neither how samples are convolved nor how large a spectrogram is.
    """
    config = model.config
    if getattr(config, "conv_kernel", None):
        return _samples(folder, config, names)
    if getattr(config, "max_length", None) and getattr(config, "num_mel_bins", None):
        return _static(folder, SOUND, (int(config.max_length), int(config.num_mel_bins)))
    raise SourceError(
        f"{folder}: {type(model).__name__} takes {SOUND}, but config.json has neither conv_kernel and conv_stride "
        "(samples) nor max_length and num_mel_bins (a spectrogram), so its shape is not known"
    )


def features(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """`input_features`: log-mel frames (B, bins, frames), as many as the encoder has positions for.

    Raises:
        SourceError: the config does not say how many.
    """
    config = model.config
    positions, bins = getattr(config, "max_source_positions", None), getattr(config, "num_mel_bins", None)
    if not positions or not bins:
        raise SourceError(
            f"{folder}: {type(model).__name__} takes {FEATURES}, but config.json lacks max_source_positions or num_mel_bins, "
            "so its shape is not known"
        )
    return _static(folder, FEATURES, (int(bins), 2 * int(positions)))


def _static(folder: Path, name: str, shape: tuple[int, int]) -> Part:
    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        return torch.randn((sizes["batch"], *shape), generator=generator)

    return Part(
        feeds={name: Feed(draw, {0: "batch"})},
        dimensions=(Dimension("batch", batch=True),),
        preprocessing={"audio": audio_settings(folder, name, None, 1, frames=shape[1])},
    )


def _samples(folder: Path, config: Any, names: Sequence[str]) -> Part:
    """Samples; a mask only for models that were trained with one, whose convolutions normalize each frame by itself."""
    chosen = [name for name in names if name != PADDING_INPUT or config.feat_extract_norm == "layer"]
    draws = {
        SOUND: lambda sizes, generator: torch.randn((sizes["batch"], sizes["samples"]), generator=generator),
        PADDING_INPUT: lambda sizes, _: torch.ones((sizes["batch"], sizes["samples"]), dtype=torch.int64),
    }
    least = samples_for(config, _FRAMES[0])
    tried = tuple(samples_for(config, frames) + i for i, frames in enumerate(_FRAMES))
    return Part(
        feeds={name: Feed(draws[name], {0: "batch", 1: "samples"}) for name in chosen},
        dimensions=(Dimension("batch", batch=True), Dimension("samples", least=least, tried=tried)),
        preprocessing={"audio": audio_settings(folder, SOUND, PADDING_INPUT if PADDING_INPUT in chosen else None, least)},
    )


def samples_for(config: Any, frames: int) -> int:
    """The fewest samples that give so many frames."""
    length = frames
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        length = (length - 1) * stride + kernel
    return int(length)
