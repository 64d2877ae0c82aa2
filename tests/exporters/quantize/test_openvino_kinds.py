"""OpenVINO's kinds, each by itself, on the small encoder and the small decoder, which keeps its cache itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.exams import COSINE, RISE, TOP1
from edgeattn.exporters.quantize import openvino_file
from edgeattn.exporters.quantize.kinds import OPENVINO, kind, kinds_for
from edgeattn.openvino_ir import read_ir
from tests.exporters.quantize.small_encoder import LAYERS, PRODUCTS, draw, workshop
from tests.exporters.quantize.trying import tried

COSINES = {"int4": 0.9, "int8-static": 0.97, "int8": 0.99, "int8-weights": 0.99, "fp16": 0.99999}
SIZES = {
    "int4": (0.125, 0.17),
    "int8-static": (0.25, 0.3),
    "int8": (0.25, 0.29),
    "int8-weights": (0.25, 0.29),
    "fp16": (0.5, 0.53),
}
"""Weights over those at full precision: the bits, and at most what scales, biases and norms add."""
_SCALES = 1000
"""A scale a group and a zero point a column are fewer."""


def test_every_kind_is_in_the_tables() -> None:
    assert list(COSINES) == list(SIZES) == [each.name for each in kinds_for(OPENVINO)]


@pytest.mark.parametrize("name", list(COSINES))
def test_a_kind_alone_on_an_encoder(encoder: Path, name: str, tmp_path: Path) -> None:
    scores, ratio, effective = tried(encoder, OPENVINO, name, tmp_path)
    assert COSINES[name] < scores[COSINE] < 1 - 1e-9
    assert SIZES[name][0] < ratio < SIZES[name][1]
    assert read_ir(tmp_path / "small.xml").foreign == []
    products = effective.details["products"]
    if name == "int8-static":
        assert "f32" not in products
        assert "by i8" in products
    else:
        assert products == f"{PRODUCTS} f32 by {'f16' if name == 'fp16' else 'u4' if name == 'int4' else 'u8'}"
    assert effective.details["dynamic quantization group"] == ("64" if name in ("int4", "int8", "int8-static") else "0")


@pytest.mark.parametrize("name", list(COSINES))
def test_a_kind_alone_on_a_decoder(decoder: Path, name: str, tmp_path: Path) -> None:
    """Its width is no multiple of the group of int4."""
    scores, ratio, _ = tried(decoder, OPENVINO, name, tmp_path)
    assert abs(scores[RISE]) < 0.1
    assert scores[TOP1] > 0.6
    assert ratio < 0.75
    assert read_ir(tmp_path / "small.xml").foreign == []
    note = read_ir(tmp_path / "small.xml").note()
    assert note is not None
    assert note.variables


def test_layers_are_products_and_embeddings(encoder: Path, tmp_path: Path) -> None:
    layers = workshop(encoder, OPENVINO, tmp_path).layers
    assert [layer.elements for layer in layers.values()] == [300 * 64, *[64 * 192, 64 * 64, 64 * 256, 256 * 64] * LAYERS]


@pytest.mark.parametrize("name", list(COSINES))
def test_what_is_not_named_stays_as_it_is(encoder: Path, name: str, tmp_path: Path) -> None:
    """NNCF takes all that it is not told to leave, attention among it; OpenVINO's own halves are all or nothing."""
    shop = workshop(encoder, OPENVINO, tmp_path, draw(4))
    one = list(shop.layers)[2]
    model = openvino_file.quantized(openvino_file.read(shop.path), {one: kind(OPENVINO, name)}, shop.calibrating())
    assert _smaller(model) == [64 * 64]
    rounded = {user.get_node().get_type_name() for node in model.get_ops() for user in _users(node)}
    assert rounded == ({"MatMul"} if name == "int8-static" else set())


@pytest.mark.parametrize("name", ["int4", "int8", "fp16"])
def test_weights_too_small_to_be_a_layer_stay_as_they_are(decoder: Path, name: str, tmp_path: Path) -> None:
    shop = workshop(decoder, OPENVINO, tmp_path)
    model = openvino_file.quantized(openvino_file.read(shop.path), dict.fromkeys(shop.layers, kind(OPENVINO, name)), [])
    assert len(_smaller(model)) == len(shop.layers) == 2


def _smaller(model: Any) -> list[int]:
    """Elements of the matrices in smaller numbers; zero points, a column or a row, are none."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    small = [node for node in constants if node.get_element_type().get_type_name() in ("u4", "u8", "i8", "f16")]
    return [size for size in (int(np.prod(node.get_output_shape(0))) for node in small) if size > _SCALES]


def _users(node: Any) -> list[Any]:
    """Who reads a tensor that is rounded here, past reshapes."""
    return list(node.output(0).get_target_inputs()) if node.get_type_name() == "FakeQuantize" else []
