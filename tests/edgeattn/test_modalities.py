"""Settings of images and sounds: what a manifest may say, and what no device should be asked to do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from edgeattn.errors import BundleError
from edgeattn.manifest import Manifest, dumps, loads
from edgeattn.modalities import AudioSettings, DecoderSettings, ImageSettings, MelSettings, Preprocessing

IMAGE = ImageSettings("pixel_values", (40,), 3, (32, 33), True, 1 / 255, (0.5, 0.4, 0.3), (1.0, 2.0, 3.0))
MEL = MelSettings(16, 400, 160, 16000)
EVERYTHING = Preprocessing(
    IMAGE,
    AudioSettings("input_features", 16000, True, "mask", 7, MEL),
    DecoderSettings("decoder_input_ids", 3, (5, 6)),
    {"audio": "why"},
)


def _manifest(preprocessing: Preprocessing | None) -> Manifest:
    return Manifest("0", {}, (), (), (), (), (), (), (), {}, preprocessing=preprocessing)


@pytest.mark.parametrize("preprocessing", [None, Preprocessing(), Preprocessing(image=IMAGE), EVERYTHING])
def test_a_manifest_keeps_them(preprocessing: Preprocessing | None) -> None:
    assert loads(dumps(_manifest(preprocessing))).preprocessing == preprocessing


def test_a_manifest_without_any_does_not_name_them() -> None:
    assert "preprocessing" not in json.loads(dumps(_manifest(None)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("image", "resize"), [0]),
        (("image", "resize"), [1 << 20, 1]),
        (("image", "resize"), [1, 2, 3]),
        (("image", "crop"), [32]),
        (("image", "crop"), [32, -1]),
        (("image", "resample"), 6),
        (("image", "std"), [1.0, 0.0, 1.0]),
        (("image", "mean"), [0.5]),
        (("image", "scale"), "1"),
        (("image", "input"), None),
        (("audio", "rate"), 0),
        (("audio", "least"), -1),
        (("audio", "mel", "samples"), 1 << 40),
        (("audio", "mel", "samples"), 1 << 26),  # frames of which no memory holds
        (("audio", "mel", "hop"), 0),
        (("audio", "mel", "fft"), 16000),
        (("audio", "mel", "bins"), 401),
        (("audio", "mel", "highest"), 0.0),
        (("decoder", "start"), 1.5),
        (("refused",), ["why"]),
    ],
)
def test_what_no_device_should_be_asked_to_do(place: tuple[str, ...], value: Any) -> None:
    data = json.loads(dumps(_manifest(EVERYTHING)))
    inner = data["preprocessing"]
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(BundleError, match=place[-1]):
        loads(json.dumps(data))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none(number: float) -> None:
    with pytest.raises(BundleError, match="scale, mean, std cannot be"):
        replace(IMAGE, scale=number)
    with pytest.raises(BundleError, match="highest cannot be"):
        replace(MEL, highest=number)
