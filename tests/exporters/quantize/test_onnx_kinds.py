"""ONNX Runtime's kinds, each by itself, on the small encoder and the small decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.bundle import open_bundle
from edgeattn.exams import COSINE, RISE, TOP1
from edgeattn.exporters.quantize import onnx_file
from edgeattn.exporters.quantize.kinds import ORT, kind, kinds_for
from tests.exporters.quantize.small_encoder import LAYERS, PRODUCTS, VOCABULARY, draw, workshop
from tests.exporters.quantize.trying import tried

COSINES = {"int4": 0.9, "int8-static": 0.98, "int8-dynamic": 0.99, "int8-g128": 0.99, "int8": 0.99, "fp16": 0.99999}
SIZES = {
    "int4": (0.125, 0.2),
    "int8-static": (0.25, 0.29),
    "int8-dynamic": (0.25, 0.29),
    "int8-g128": (0.25, 0.29),
    "int8": (0.25, 0.31),
    "fp16": (0.5, 0.52),
}
"""Weights over those at full precision: the bits, and at most what scales, biases and norms add."""


def test_every_kind_is_in_the_tables() -> None:
    assert list(COSINES) == list(SIZES) == [kind.name for kind in kinds_for(ORT)]


@pytest.mark.parametrize("kind", list(COSINES))
def test_a_kind_alone_on_an_encoder(encoder: Path, kind: str, tmp_path: Path) -> None:
    scores, ratio, _ = tried(encoder, ORT, kind, tmp_path)
    assert COSINES[kind] < scores[COSINE] < 1 - 1e-9
    assert SIZES[kind][0] < ratio < SIZES[kind][1]


@pytest.mark.parametrize(
    ("kind", "rise", "same"),
    [
        ("int4", 0.05, 0.7),
        ("int8-static", 0.05, 0.8),
        ("int8-dynamic", 0.01, 0.9),
        ("int8-g128", 0.01, 0.9),
        ("int8", 0.01, 0.9),
    ],
)
def test_a_kind_alone_on_a_decoder(decoder: Path, kind: str, rise: float, same: float, tmp_path: Path) -> None:
    scores, ratio, _ = tried(decoder, ORT, kind, tmp_path)
    assert 0 < abs(scores[RISE]) < rise
    assert same < scores[TOP1] <= 1
    assert ratio < 0.62


def test_halves_on_a_decoder(decoder: Path, tmp_path: Path) -> None:
    scores, ratio, _ = tried(decoder, ORT, "fp16", tmp_path)
    assert abs(scores[RISE]) < 1e-3
    assert scores[TOP1] > 0.99
    assert ratio < 0.75


def test_layers_are_products_and_embeddings(encoder: Path, tmp_path: Path) -> None:
    """Nothing of attention: the products of queries, keys and values have no constant weights."""
    shop = workshop(encoder, ORT, tmp_path)
    assert [layer.elements for layer in shop.layers.values()] == [300 * 64, *[64 * 192, 64 * 64, 64 * 256, 256 * 64] * LAYERS]
    model = onnx_file.read(shop.path)
    types = [node.op_type for node in model.graph.node if node.name in shop.layers]
    assert types == ["Gather", *["MatMul"] * PRODUCTS]
    assert sum(node.op_type == "MatMul" for node in model.graph.node) == PRODUCTS + 2 * LAYERS or any(
        "Attention" in node.op_type for node in model.graph.node
    )


def test_products_of_one_input_are_one_in_a_decoder(decoder: Path, encoder: Path, tmp_path: Path) -> None:
    """Queries, keys and values; a gate and what it opens. A model without a cache has each by itself."""

    def merged(bundle: Path) -> list[int]:
        model = onnx_file.read(workshop(bundle, ORT, tmp_path).path)
        return sorted(
            node.input[1].count("+") for node in model.graph.node if node.op_type == "MatMul" and "+" in node.input[1]
        )

    blocks = sum(info.name.endswith(".key") for info in open_bundle(decoder).manifest.inputs)
    assert merged(decoder) == [1] * blocks + [2] * blocks
    assert merged(encoder) == []


def test_what_is_not_named_stays_as_it_is(encoder: Path, tmp_path: Path) -> None:
    shop = workshop(encoder, ORT, tmp_path, draw(2))
    before = {tensor.name: tensor.raw_data for tensor in onnx_file.read(shop.path).graph.initializer}
    one = list(shop.layers)[2]
    for each in kinds_for(ORT):
        after = {
            tensor.name: tensor.raw_data
            for tensor in onnx_file.quantized(onnx_file.read(shop.path), {one: each}, draw(2)).graph.initializer
        }
        gone = {name for name in before if name not in after}
        assert gone == {shop.layers[one].weight}, each.name
        assert all(after[name] == data for name, data in before.items() if name in after)


@pytest.mark.parametrize(
    ("rows", "size"),
    [(576, 128), (1536, 128), (128, 128), (114, 128), (113, 32), (320, 64), (64, 64), (192, 64), (96, 32), (31, 32), (5, 32)],
)
def test_a_block_is_smaller_where_much_of_the_last_one_were_padding(rows: int, size: int) -> None:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((rows, 1024)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1024])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    written = onnx_file.quantized(model, {"product": kind(ORT, "int8-g128")})
    (node,) = written.graph.node
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute}["block_size"] == size
    x = generator.standard_normal((3, rows)).astype(np.float32)
    (y,) = ort.InferenceSession(written.SerializeToString()).run(None, {"x": x})
    assert float((y * (x @ weights)).sum() / np.linalg.norm(y) / np.linalg.norm(x @ weights)) > 0.9999


def test_rows_of_an_embedding_are_off_by_half_a_scale_at_most(encoder: Path, tmp_path: Path) -> None:
    shop = workshop(encoder, ORT, tmp_path)
    model = onnx_file.read(shop.path)
    name = next(iter(shop.layers))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    table = tensors[shop.layers[name].weight]
    written = onnx_file.quantized(model, {name: kind(ORT, "int8")})
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    rows, scales = stored[f"{name}.rows"], stored[f"{name}.scales"]
    assert rows.dtype == np.int8
    assert rows.shape == (VOCABULARY, 64)
    assert scales.shape == (VOCABULARY, 1)
    assert (np.abs(rows * scales - table) <= scales / 2 * (1 + 1e-5)).all()
    assert np.abs(rows).max(axis=1).min() == 127
