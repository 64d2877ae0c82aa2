"""Scale migration: by itself it changes nothing, and it looks at real positions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper, parser

from edgeattn.exporters.quantize import onnx_file, onnx_io
from edgeattn.exporters.quantize.candidate import Workshop
from edgeattn.exporters.quantize.kinds import ORT
from edgeattn.exporters.quantize.smooth import largest_inputs, smooth
from tests.exporters.quantize.small_encoder import PRODUCTS, Feeds, draw, workshop


@pytest.fixture
def shop(encoder: Path, tmp_path: Path) -> Workshop:
    return workshop(encoder, ORT, tmp_path)


def same(model: ModelProto, other: ModelProto) -> None:
    """Both give the same outputs."""
    for feeds in draw(4, seed=1):
        expected, got = (_run(each, feeds) for each in (model, other))
        for one, two in zip(expected, got, strict=True):
            assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


def _run(model: ModelProto, feeds: Feeds) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def test_outputs_stay_the_same(shop: Workshop) -> None:
    model = onnx_file.read(shop.path)
    smoothed = onnx_io.copied(model)
    largest = largest_inputs(model, shop.layers, draw(6), "attention_mask")
    smooth(smoothed, set(shop.layers), largest)
    names = [layer.weight for layer in shop.layers.values()]
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer if tensor.name in names}
        for each in (model, smoothed)
    )
    assert sum(not np.allclose(before[name], after[name], rtol=1e-3) for name in names) == PRODUCTS
    same(model, smoothed)


def test_weights_that_two_layers_share_stay_as_they_are(shop: Workshop) -> None:
    """Each of the two has an input of its own, and would need other weights than the other."""
    model = onnx_file.read(shop.path)
    products = {node.name: node for node in model.graph.node if node.name in shop.layers and node.op_type == "MatMul"}
    first, second = [name for name in products if shop.layers[name].elements == 64 * 64][:2]
    products[second].input[1] = products[first].input[1]
    smoothed = onnx_io.copied(model)
    smooth(smoothed, set(shop.layers), largest_inputs(model, shop.layers, draw(6), "attention_mask"))
    assert sum(node.op_type == "Mul" for node in smoothed.graph.node) > sum(node.op_type == "Mul" for node in model.graph.node)
    same(model, smoothed)


@pytest.mark.parametrize(("output", "products"), [("y", 1), ("y, float[N,8] normed", 2)])
def test_a_normalization_that_nothing_else_reads_takes_the_scales(output: str, products: int) -> None:
    """One operator fewer; where its result goes elsewhere too, it has to stay what it is."""
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        small (float[N,8] x) => (float[N,5] {output}) {{
          normed = Mul (x, gain)
          [product] y = MatMul (normed, weights)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"gain": (8,), "weights": (8, 5)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name))
    smoothed = onnx_io.copied(model)
    smooth(smoothed, {"product"}, {"normed": np.geomspace(0.1, 9, 8, dtype=np.float32)})
    assert sum(node.op_type == "Mul" for node in smoothed.graph.node) == products
    feeds = {"x": rng.standard_normal((3, 8), dtype=np.float32)}
    for one, two in zip(*(_run(each, feeds) for each in (model, smoothed)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_columns_that_stand_out_are_brought_nearer(shop: Workshop) -> None:
    """Each product's input afterwards: its largest column is fewer times its median one."""
    model = onnx_file.read(shop.path)
    largest = largest_inputs(model, shop.layers, draw(6), "attention_mask")
    smoothed = onnx_io.copied(model)
    smooth(smoothed, set(shop.layers), largest)
    after = largest_inputs(smoothed, shop.layers, draw(6), "attention_mask")
    assert len(largest) == len(after) == PRODUCTS
    for before, later in zip(sorted(largest), sorted(after), strict=True):
        assert later == f"{before}.smooth"
        spread, kept = (float(peaks.max() / np.median(peaks)) for peaks in (largest[before], after[later]))
        assert kept < spread


def test_padding_is_not_looked_at(shop: Workshop) -> None:
    """Samples padded with tokens of all sorts give what the samples alone give."""
    model = onnx_file.read(shop.path)
    samples = draw(6)
    alone = largest_inputs(model, shop.layers, samples, "attention_mask")
    padded = largest_inputs(model, shop.layers, [_padded(feeds) for feeds in samples], "attention_mask")
    everything = largest_inputs(model, shop.layers, [_padded(feeds) for feeds in samples], "")
    for name, peaks in alone.items():
        np.testing.assert_allclose(padded[name], peaks, rtol=1e-4, atol=1e-5)
    assert any(np.abs(everything[name] - peaks).max() > 0.01 for name, peaks in alone.items())


def _padded(feeds: Feeds) -> Feeds:
    tokens = np.random.default_rng(9).integers(300, size=(1, 30))
    return {
        "input_ids": np.concatenate([feeds["input_ids"], tokens], axis=1),
        "attention_mask": np.concatenate([feeds["attention_mask"], np.zeros_like(tokens)], axis=1),
    }
