"""Images to pixels, by Pillow and numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import RuntimeMissingError, UsageError
from edgeattn.modalities import ImageSettings

Array = NDArray[Any]

_LONGEST = 1 << 15
"""Pixels of an edge: what is longer is a strip that no model was made for, and would fill the memory."""


def read_image(path: Path) -> Array:
    """An image file as RGB, uint8 (H, W, 3), turned as its camera says; transparency and 16 bits are dropped as Pillow does.

    Raises:
        RuntimeMissingError: Pillow is not installed.
        UsageError: no file, or none that holds an image.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise RuntimeMissingError(f'images need Pillow ({error}); fix: pip install "edgeattn[image]"') from error
    if not path.is_file():
        raise UsageError(f"{path} is not there; --image takes an image file, such as PNG or JPEG")
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no image that Pillow reads: {error}; give a PNG or JPEG file") from error


def pixels(settings: ImageSettings, images: Sequence[Array]) -> Array:
    """RGB images, uint8 (H, W, 3) each, to float32 (B, 3, H, W).

    Raises:
        UsageError: images that are not of one size in the end.
    """
    made = [_pixels(settings, image) for image in images]
    if len({image.shape for image in made}) > 1:
        sizes = ", ".join(f"{image.shape[1]} x {image.shape[2]}" for image in made)
        raise UsageError(f"the images of one run must have one size, got {sizes} (height x width); run them one by one")
    return np.stack(made)


def _pixels(settings: ImageSettings, image: Array) -> Array:
    if settings.resize:
        image = _resized(image, _size(image, settings.resize), settings.resample)
    if settings.crop:
        image = _cropped(image, (settings.crop[0], settings.crop[1]))
    image = image[..., ::-1] if settings.bgr else image
    made = image.transpose(2, 0, 1).astype(np.float64) * settings.scale
    made = made.astype(np.float32)
    if settings.mean:
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (settings.mean, settings.std))
        made = (made - mean) / std
    return np.ascontiguousarray(made, dtype=np.float32)


def _size(image: Array, resize: tuple[int, ...]) -> tuple[int, int]:
    if len(resize) == 2:
        return resize[0], resize[1]
    height, width = image.shape[:2]
    longer = int(resize[0] * max(height, width) / min(height, width))
    if longer > _LONGEST:
        raise UsageError(
            f"an image of {height} x {width} (height x width) would be resized to {longer} pixels along the longer edge, more than "
            f"{_LONGEST}; crop it first"
        )
    return (longer, resize[0]) if height >= width else (resize[0], longer)


def _resized(image: Array, size: tuple[int, int], resample: int) -> Array:
    from PIL import Image

    made = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling(resample))
    return np.array(made)


def _cropped(image: Array, size: tuple[int, int]) -> Array:
    """The middle of the image, with zeros around one that is smaller along an axis."""
    around = [math.ceil(max(0, wanted - got) / 2) for wanted, got in zip(size, image.shape, strict=False)]
    after = [max(0, wanted - got) - before for wanted, got, before in zip(size, image.shape, around, strict=False)]
    padded = np.pad(image, [(around[0], after[0]), (around[1], after[1]), (0, 0)])
    top, left = ((got - wanted) // 2 for got, wanted in zip(padded.shape, size, strict=False))
    return padded[top : top + size[0], left : left + size[1]]
