"""What models of images, sounds and series are fed, as their configs say it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeattn.errors import SourceError
from edgeattn.exporters.gate import GOLDEN_BYTES, golden_cases
from edgeattn.exporters.reference_run import ReferenceCase, size_grid
from edgeattn.exporters.sources.base import Dimension, padded_mask
from edgeattn.exporters.sources.huggingface.inputs.audio import features, samples_for, sound
from edgeattn.exporters.sources.huggingface.inputs.image import image
from edgeattn.exporters.sources.huggingface.inputs.series import series


def _model(**config: Any) -> Any:
    """Something with a config, as much of a model as the parts look at."""
    return SimpleNamespace(config=SimpleNamespace(**config))


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 6)), min_size=1, max_size=4), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_fewest_samples_of_so_many_frames(layers: list[tuple[int, int]], frames: int) -> None:
    kernels, strides = zip(*layers, strict=True)
    config = SimpleNamespace(conv_kernel=kernels, conv_stride=strides)
    convolutions = torch.nn.Sequential(*(torch.nn.Conv1d(1, 1, kernel, stride) for kernel, stride in layers))
    least = samples_for(config, frames)
    assert convolutions(torch.zeros(1, 1, least)).shape[2] == frames
    if frames > 1:
        assert convolutions(torch.zeros(1, 1, least - 1)).shape[2] == frames - 1


@pytest.mark.parametrize(("norm", "masked"), [("layer", True), ("group", False)])
def test_a_mask_over_samples_only_where_the_model_was_trained_with_one(norm: str, masked: bool, tmp_path: Path) -> None:
    model = _model(conv_kernel=(10, 3), conv_stride=(5, 2), feat_extract_norm=norm)
    part = sound(tmp_path, model, ["input_values", "attention_mask"])
    assert list(part.feeds) == ["input_values", *(["attention_mask"] if masked else [])]
    assert part.dimensions[1] == Dimension("samples", least=30, tried=(30, 81, 502, 1003, 1504))
    drawn = part.feeds["input_values"].draw({"batch": 2, "samples": 31}, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 31)


def test_spectrograms_are_as_large_as_the_config_says(tmp_path: Path) -> None:
    sizes, seed = {"batch": 3}, torch.Generator()
    part = sound(tmp_path, _model(max_length=48, num_mel_bins=16), ["input_values"])
    assert part.feeds["input_values"].draw(sizes, seed).shape == (3, 48, 16)
    part = features(tmp_path, _model(max_source_positions=30, num_mel_bins=16), ["input_features"])
    assert part.feeds["input_features"].draw(sizes, seed).shape == (3, 16, 60)
    part = series(tmp_path, _model(context_length=32, num_input_channels=5), ["past_values"])
    assert part.feeds["past_values"].draw(sizes, seed).shape == (3, 32, 5)


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (sound, "has neither conv_kernel and conv_stride"),
        (features, "lacks max_source_positions or num_mel_bins"),
        (series, "lacks context_length or num_input_channels"),
        (image, "says how large an image is"),
    ],
)
def test_a_config_that_does_not_say_the_shape(maker: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        maker(tmp_path, _model(), [])


@pytest.mark.parametrize(
    ("config", "prepared", "shape"),
    [
        ({"image_size": 24}, None, (2, 3, 24, 24)),
        ({"image_size": [24, 40], "num_channels": 1}, None, (2, 1, 24, 40)),
        ({"vision_config": SimpleNamespace(image_size=16, num_channels=4)}, None, (2, 4, 16, 16)),
        ({}, {"size": {"height": 8, "width": 12}}, (2, 3, 8, 12)),
        ({}, {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 7}}, (2, 3, 8, 7)),
    ],
)
def test_the_size_of_images(config: dict[str, Any], prepared: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    if prepared:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    feed = image(tmp_path, _model(**config), ["pixel_values"]).feeds["pixel_values"]
    assert feed.draw({"batch": 2}, torch.Generator()).shape == shape
    assert feed.axes == {0: "batch"}


def test_sizes_of_its_own_are_tried_in_place_of_the_usual() -> None:
    samples = Dimension("samples", least=30, tried=(30, 81, 502))
    assert [sizes["samples"] for sizes in size_grid({"samples": samples})] == [30, 81, 502]


def test_two_batches_are_not_always_equal() -> None:
    grid = size_grid({name: Dimension(name, batch=True) for name in ("batch", "images")})
    assert grid == [{"batch": 1, "images": 3}, {"batch": 3, "images": 8}, {"batch": 8, "images": 1}]


def test_padding_leaves_as_much_as_the_model_needs() -> None:
    mask = padded_mask(torch.ones((4, 100), dtype=torch.int64), least=60)
    assert mask.sum(dim=1).tolist() == [100, 75, 60, 60]


def test_a_bundle_keeps_no_more_images_than_it_can_carry() -> None:
    def case(name: str, megabytes: int) -> ReferenceCase:
        return ReferenceCase(name, {}, {"x": np.zeros((megabytes, 1 << 20), np.uint8)}, {})

    assert GOLDEN_BYTES == 16 << 20
    assert [c.name for c in golden_cases([case("a", 9), case("b", 3), case("c", 4), case("d", 5)])] == ["b", "c", "d"]
    assert [c.name for c in golden_cases([case("a", 40), case("b", 30), case("c", 20)])] == ["b", "c"]
