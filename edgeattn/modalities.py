"""How a model's feeds are made of images, sounds and nothing at all, as the manifest says it.

`edgeattn.preprocess` follows these settings on the device. What could not be reproduced there has no settings, but a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeattn.errors import BundleError
from edgeattn.fields import WHERE_SET

_EDGE = 1 << 14
_FILTERS = 6
"""Of Pillow, numbered from 0."""
_SAMPLES = 1 << 26


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """An RGB image to `input` (B, 3, H, W): resized, cropped around its centre, scaled, normalized, in this order."""

    input: str
    resize: tuple[int, ...] = ()
    """(height, width), or (edge,): the shorter edge, the other in proportion; empty leaves the size."""
    resample: int = 2
    """Pillow's number of the filter; 2 is bilinear, 3 bicubic."""
    crop: tuple[int, ...] = ()
    """(height, width); zeros around an image that is smaller."""
    bgr: bool = False
    """Channels in the order blue, green, red."""
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """By channel; empty: not normalized."""

    def __post_init__(self) -> None:
        _check("resize", self.resize, len(self.resize) <= 2 and _within(self.resize, _EDGE))
        _check("crop", self.crop, len(self.crop) in (0, 2) and _within(self.crop, _EDGE))
        _check("resample", self.resample, self.resample in range(_FILTERS))
        _check("scale, mean, std", (self.scale, self.mean, self.std), self._is_finite())

    def _is_finite(self) -> bool:
        lengths = {len(self.mean), len(self.std)}
        return lengths in ({0}, {3}) and all(map(math.isfinite, (self.scale, *self.mean, *self.std))) and all(self.std)


@dataclass(frozen=True, slots=True)
class MelSettings:
    """Samples to log-mel frames (bins, frames): Hann windows, power, Slaney's mel filters, log10 of at most 8 below the peak."""

    bins: int
    fft: int
    hop: int
    samples: int
    """A sound is cut or filled with silence to so many."""
    highest: float = 8000.0
    """Hertz."""

    def __post_init__(self) -> None:
        sizes = (self.bins, self.fft, self.hop, self.samples)
        _check("bins, fft, hop, samples", sizes, _within(sizes, _SAMPLES) and self.bins <= self.fft < self.samples)
        frames = self.samples // self.hop
        _check("bins, fft, hop, samples", sizes, self.fft * max(frames, self.bins) <= _SAMPLES)
        _check("highest", self.highest, 0 < self.highest < math.inf)


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """Mono samples in -1..1 to `input`: samples (B, samples), or log-mel frames (B, bins, frames) where `mel` says how."""

    input: str
    rate: int
    """Samples per second."""
    normalize: bool = False
    """Each sound to mean 0 and variance 1."""
    mask: str | None = None
    """The input that marks real samples, if the model has one."""
    least: int = 1
    """Samples that the model needs."""
    mel: MelSettings | None = None

    def __post_init__(self) -> None:
        _check("rate, least", (self.rate, self.least), _within((self.rate, self.least), _SAMPLES))


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """The token that a decoder's `input` (B, S) begins with, and those that always follow it."""

    input: str
    start: int
    forced: tuple[int, ...] = field(default=(), metadata=WHERE_SET)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """All of a model's; `refused` says for a modality why it has no settings."""

    image: ImageSettings | None = None
    audio: AudioSettings | None = None
    decoder: DecoderSettings | None = None
    refused: dict[str, str] = field(default_factory=dict)


def _within(sizes: Sequence[int], most: int) -> bool:
    return all(1 <= size <= most for size in sizes)


def _check(name: str, value: object, sound: bool) -> None:
    if not sound:
        raise BundleError(f"pre-processing: {name} cannot be {value!r}; export the model again")
