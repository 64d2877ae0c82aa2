"""Calibration from a folder of images, through the bundle's own pre-processing: transformers' processor makes the same of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.errors import UsageError
from edgeattn.exporters.export import export
from edgeattn.exporters.quantize.samples import gather
from edgeattn.exporters.quantize.stage import Wish
from tests.exporters.families.building import save

COUNT = 16
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True}
CONFIG = ViTConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    image_size=32,
    patch_size=8,
    num_labels=5,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = save(tmp_path_factory.mktemp("vit") / "model", ViTForImageClassification(CONFIG).eval(), 4.0)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "labels.csv").write_text("is not read")
    return folder


def test_each_image_is_a_sample_as_transformers_reads_it(source: Path, images: Path, tmp_path: Path) -> None:
    edgeattn.export(str(source), output=tmp_path / "bundle")
    samples = gather(open_bundle(tmp_path / "bundle"), images, None, seed=0)
    assert [len(part) for part in (samples.calibration, samples.search, samples.unseen)] == [4, 4, 8]
    processor = ViTImageProcessor(**{name: value for name, value in PROCESSOR.items() if name != "image_processor_type"})
    expected = [processor(Image.open(file), return_tensors="np")["pixel_values"] for file in sorted(images.glob("*.png"))]
    found = [feeds["pixel_values"] for part in (samples.calibration, samples.search, samples.unseen) for feeds in part]
    for truth in expected:
        assert min(np.abs(array - truth).max() for array in found) < 0.02  # a step of a pixel is 1/127


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_scales_from_images(source: Path, images: Path, runtime: str, tmp_path: Path) -> None:
    wish = Wish(("int8-static",), calibration=images, slower=True)
    report = export(str(source), output=tmp_path / "small", runtimes=[f"{runtime}:cpu"], wish=wish)
    (outcome,) = report.outcomes
    assert outcome.origin == str(images)
    assert outcome.samples == COUNT // 2
    assert 0.9 < outcome.scores["cosine"] < 1 - 1e-9


def test_a_folder_without_any(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wish = Wish(("int8",), calibration=tmp_path / "empty")
    with pytest.raises(UsageError, match="empty makes 0 samples, at least 12 are needed"):
        export(str(source), output=tmp_path / "small", wish=wish)
    assert not (tmp_path / "small").exists()
