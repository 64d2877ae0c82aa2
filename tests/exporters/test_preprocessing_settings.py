"""What a model folder says of images and sounds: kept where the device repeats it, refused with the reason elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from edgeattn.exporters.sources.huggingface.inputs.base import Part
from edgeattn.exporters.sources.huggingface.inputs.settings import audio_settings, decoder_settings, gathered, image_settings
from edgeattn.modalities import AudioSettings, DecoderSettings, ImageSettings, MelSettings, Preprocessing

SQUARE = {"height": 32, "width": 32}


def _folder(folder: Path, name: str = "preprocessor_config.json", **config: Any) -> Path:
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "named",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "ViTImageProcessorFast"},
        {"feature_extractor_type": "ViTFeatureExtractor"},  # as folders of before 2023 say it
    ],
)
def test_vit_under_all_its_names(named: dict[str, str], tmp_path: Path) -> None:
    settings = image_settings(_folder(tmp_path, size=SQUARE, **named), "pixel_values", (32, 32))
    half = (0.5, 0.5, 0.5)
    assert settings == ImageSettings("pixel_values", (32, 32), scale=1 / 255, mean=half, std=half)


def test_clip_inside_a_processor(tmp_path: Path) -> None:
    inner = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": SQUARE,
        "do_normalize": False,
    }
    settings = image_settings(_folder(tmp_path, "processor_config.json", image_processor=inner), "x", (32, 32))
    assert settings == ImageSettings("x", (40,), 3, (32, 32), scale=1 / 255)


def test_channels_in_another_order(tmp_path: Path) -> None:
    _folder(tmp_path, image_processor_type="MobileViTImageProcessor", size={"shortest_edge": 36}, crop_size=SQUARE)
    settings = image_settings(tmp_path, "x", (32, 32))
    assert settings == ImageSettings("x", (36,), 3, (32, 32), True, 1 / 255)


def test_the_nearest_pixel_is_filter_0(tmp_path: Path) -> None:
    folder = _folder(tmp_path, image_processor_type="ViTImageProcessor", size=SQUARE, resample=0, do_normalize=False)
    assert image_settings(folder, "x", (32, 32)) == ImageSettings("x", (32, 32), 0, scale=1 / 255)


@pytest.mark.parametrize(
    ("config", "size", "reason"),
    [
        ({}, (32, 32), "the model folder has no preprocessor_config.json that names an image processor"),
        (
            {"image_processor_type": "NobodysImageProcessor"},
            (32, 32),
            r"NobodysImageProcessor cannot be repeated on a device: ValueError: transformers .* has no NobodysImageProcessorPil",
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "size": SQUARE},
            (32, 48),
            "it makes 32 x 32 of 37 x 53, the model takes 32 x 48",
        ),
        (
            {"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 48}},
            (32, 48),
            "a size by shortest_edge and longest_edge is not repeated",
        ),
        # it crops before it resizes, which none of its settings says
        (
            {"image_processor_type": "PerceiverImageProcessor", "size": SQUARE, "crop_size": SQUARE},
            (32, 32),
            "it does more than resizing, cropping, scaling and normalizing",
        ),
    ],
)
def test_images_that_are_not_repeated(config: dict[str, Any], size: tuple[int, int], reason: str, tmp_path: Path) -> None:
    refused = image_settings(_folder(tmp_path, **config), "pixel_values", size)
    assert isinstance(refused, str)
    assert re.search(reason, refused), refused


def test_sounds(tmp_path: Path) -> None:
    _folder(tmp_path, feature_extractor_type="Wav2Vec2FeatureExtractor", sampling_rate=8000, do_normalize=True)
    assert audio_settings(tmp_path, "input_values", "attention_mask", 400) == AudioSettings(
        "input_values", 8000, True, "attention_mask", 400
    )
    _folder(tmp_path, feature_extractor_type="WhisperFeatureExtractor", feature_size=16, chunk_length=1)
    assert audio_settings(tmp_path, "input_features", None, 1, frames=100) == AudioSettings(
        "input_features", 16000, mel=MelSettings(16, 400, 160, 16000)
    )


@pytest.mark.parametrize(
    ("config", "frames", "reason"),
    [
        ({}, None, "the model folder has no preprocessor_config.json that names a feature extractor"),
        ({"feature_extractor_type": "ASTFeatureExtractor"}, 48, "ASTFeatureExtractor is not repeated on a device"),
        (
            {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 2},
            3000,
            "it makes 200 frames, the model takes 3000",
        ),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_value": 1.0}, None, "it gives another input_values"),
    ],
)
def test_sounds_that_are_not_repeated(config: dict[str, Any], frames: int | None, reason: str, tmp_path: Path) -> None:
    refused = audio_settings(_folder(tmp_path, **config), "input_values", None, 1, frames)
    assert isinstance(refused, str)
    assert reason in refused


@pytest.mark.parametrize(
    ("settings", "forced"),
    [
        ({}, ()),
        ({"forced_bos_token_id": 8}, (8,)),
        ({"forced_decoder_ids": [[2, 6], [1, 5]]}, (5, 6)),
        ({"forced_decoder_ids": [[1, None], [2, 6]]}, ()),  # the language is the model's to say
    ],
)
def test_tokens_that_follow_the_start_token(settings: dict[str, Any], forced: tuple[int, ...]) -> None:
    model = WhisperForConditionalGeneration(
        WhisperConfig(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1)
    )
    model.generation_config = GenerationConfig(decoder_start_token_id=3, **settings)
    assert decoder_settings(model, "decoder_input_ids") == DecoderSettings("decoder_input_ids", 3, forced)


def test_settings_and_refusals_of_a_model_in_one() -> None:
    image, start = ImageSettings("pixel_values", (4, 4)), DecoderSettings("decoder_input_ids", 3)
    parts = [
        Part({}, (), preprocessing={"image": image}),
        Part({}, ()),
        Part({}, (), preprocessing={"decoder": start, "audio": "why"}),
    ]
    assert gathered(parts) == Preprocessing(image, None, start, {"audio": "why"})
    assert gathered([Part({}, ())]) is None
