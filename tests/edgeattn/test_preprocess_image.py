"""Pixels on the device, held to transformers' own image processors (their PIL and numpy form)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import load_image

from edgeattn.errors import RuntimeMissingError, UsageError
from edgeattn.modalities import ImageSettings
from edgeattn.preprocess.image import pixels, read_image

Array = NDArray[Any]

HALF = (0.5, 0.5, 0.5)
VIT = ImageSettings("pixel_values", resize=(32, 48), scale=1 / 255, mean=HALF, std=HALF)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _noise(height: int, width: int, channels: int = 3) -> Array:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _theirs(kind: str, image: Array, **options: Any) -> Array:
    processor = getattr(transformers, kind)(**options)
    return np.asarray(processor(images=[image], input_data_format="channels_last", return_tensors="np")["pixel_values"])


@given(height=st.integers(1, 90), width=st.integers(1, 90), resample=st.sampled_from([0, 1, 2, 3, 4, 5]))
@settings(max_examples=25, deadline=None)
def test_vit_resizes_to_both_sizes(height: int, width: int, resample: int) -> None:
    image = _noise(height, width)
    options = ImageSettings("x", resize=(32, 48), resample=resample, scale=1 / 255, mean=HALF, std=HALF)
    theirs = _theirs("ViTImageProcessorPil", image, size={"height": 32, "width": 48}, resample=resample)
    assert theirs.shape == (1, 3, 32, 48)
    np.testing.assert_allclose(pixels(options, [image]), theirs, atol=1e-6, rtol=0)


@given(height=st.integers(5, 120), width=st.integers(5, 120), crop=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@example(height=12, width=10, crop=(36, 30))
@example(height=11, width=10, crop=(33, 30))
@example(height=10, width=11, crop=(30, 33))
@settings(max_examples=40, deadline=None)
def test_clip_resizes_the_shorter_edge_and_crops(height: int, width: int, crop: tuple[int, int]) -> None:
    image = _noise(height, width)
    options = ImageSettings("x", (30,), 3, crop, False, 1 / 255, CLIP_MEAN, CLIP_STD)
    theirs = _theirs(
        "CLIPImageProcessorPil", image, size={"shortest_edge": 30}, crop_size={"height": crop[0], "width": crop[1]}
    )
    assert theirs.shape == (1, 3, *crop)
    np.testing.assert_allclose(pixels(options, [image]), theirs, atol=1e-6, rtol=0)


def test_nothing_asked_for_leaves_the_values() -> None:
    image = _noise(4, 5)
    made = pixels(ImageSettings("x"), [image])
    assert made.dtype == np.float32
    assert made.shape == (1, 3, 4, 5)
    np.testing.assert_array_equal(made[0].transpose(1, 2, 0), image)


MODES = {"RGBA": 4, "L": 1, "LA": 2, "RGB": 3, "1": 1, "P": 1, "CMYK": 4}
"""Mode of a Pillow image -> channels of the array it is made of."""
FILES = [*((mode, ".png") for mode in MODES if mode != "CMYK"), *((mode, ".jpg") for mode in ("L", "RGB", "1", "CMYK"))]


@pytest.mark.parametrize(("mode", "suffix"), FILES)
def test_files_of_every_mode_become_the_rgb_that_transformers_makes(mode: str, suffix: str, tmp_path: Path) -> None:
    plain = mode if mode in ("RGBA", "LA", "RGB", "CMYK") else "L"
    image = Image.fromarray(_noise(9, 7, MODES[mode]).squeeze(), plain).convert(mode)
    image.save(path := tmp_path / f"image{suffix}")
    made = read_image(path)
    assert made.dtype == np.uint8
    assert made.shape == (9, 7, 3)
    np.testing.assert_array_equal(made, np.array(load_image(str(path))))


def test_a_camera_held_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(_noise(8, 16)).save(path := tmp_path / "image.jpg", exif=exif)
    made = read_image(path)
    assert made.shape == (16, 8, 3)
    np.testing.assert_array_equal(made, np.array(load_image(str(path))))


def test_images_of_several_sizes_share_a_run_only_when_resized() -> None:
    images = [_noise(9, 7), _noise(20, 30)]
    assert pixels(VIT, images).shape == (2, 3, 32, 48)
    np.testing.assert_array_equal(pixels(VIT, images)[1], pixels(VIT, images[1:])[0])
    with pytest.raises(UsageError, match="must have one size, got 9 x 7, 20 x 30"):
        pixels(ImageSettings("x"), images)


def test_a_strip_would_fill_the_memory() -> None:
    with pytest.raises(UsageError, match=r"1 x 3000 \(height x width\) would be resized to 90000 pixels"):
        pixels(ImageSettings("x", (30,)), [_noise(1, 3000)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there; --image takes an image file"),
        (b"RIFF....WAVE", "is no image that Pillow reads"),
        (b"", "is no image"),
    ],
)
def test_files_that_are_no_images(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_image(path)


def test_a_cut_off_image(tmp_path: Path) -> None:
    Image.fromarray(_noise(40, 40)).save(path := tmp_path / "image.png")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UsageError, match="is no image that Pillow reads"):
        read_image(path)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RuntimeMissingError, match=r'fix: pip install "edgeattn\[image\]"'):
        read_image(tmp_path / "image.png")
