"""How the range of a product's inputs is found: the same on both runtimes, and as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper

from edgeattn.cli import cli
from edgeattn.exams import COSINE
from edgeattn.exporters.quantize import exams, openvino_file
from edgeattn.exporters.quantize.kinds import OPENVINO, ORT, kind
from edgeattn.exporters.quantize.observing import observed
from edgeattn.exporters.quantize.onnx_file import read
from edgeattn.exporters.quantize.onnx_int8 import static
from edgeattn.exporters.quantize.onnx_io import copied
from edgeattn.exporters.quantize.ranges import METHODS, PERCENTILE, Method
from edgeattn.loading import open_session
from edgeattn.runtimes.base import LoadOptions
from tests.exporters.quantize.small_encoder import all_in, draw, workshop


def scales(model: ModelProto) -> dict[str, float]:
    """Of the inputs of products, by the name of what is rounded."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: float(numpy_helper.to_array(tensors[node.input[1]])) for node in rounding}


def test_scales_are_those_of_the_method(encoder: Path, tmp_path: Path) -> None:
    """Of the numbers themselves: a scale has 255 steps from the least (or 0) to the largest, or to those that are inside."""
    shop = workshop(encoder, ORT, tmp_path)
    model, samples = read(shop.path), draw(6)
    products = [name for name, layer in shop.layers.items() if layer.elements != 300 * 64]
    found = {method: scales(static(copied(model), products, samples, method)) for method in METHODS}
    assert scales(static(copied(model), products, samples, None)) == found["minmax"]
    arrays = list(observed(model, sorted(found["minmax"]), samples))
    for name, scale in found["minmax"].items():
        values = np.concatenate([each[name].ravel() for each in arrays])
        assert scale == pytest.approx((max(values.max(), 0) - min(values.min(), 0)) / 255, rel=1e-5)
        inside = np.quantile(np.abs(values), PERCENTILE / 100)
        assert found["percentile"][name] <= scale * (1 + 1e-5)
        assert found["percentile"][name] >= 0.45 * inside / 127.5
    assert any(found["percentile"][name] < scale for name, scale in found["minmax"].items())
    assert any(found["entropy"][name] < 0.99 * scale for name, scale in found["minmax"].items())


def test_openvino_has_them_too(encoder: Path, tmp_path: Path) -> None:
    widths = {}
    for method in (None, *METHODS):
        shop = workshop(encoder, OPENVINO, tmp_path, draw(6))
        kinds = {layer: kind(OPENVINO, "int8-static") for layer in shop.layers}
        model = openvino_file.quantized(openvino_file.read(shop.path), kinds, shop.calibrating(), method)
        rounded = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
        bounds = [[node.input_value(place).get_node().data for place in (1, 2)] for node in rounded]
        widths[method] = sum(float((high - low).mean()) for low, high in bounds if low.size == 1)
    assert widths["percentile"] < widths["minmax"]
    assert widths["entropy"] != widths["minmax"]
    assert widths[None] < widths["minmax"]


@pytest.mark.parametrize("runtime", [ORT, OPENVINO])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_with_every_method(runtime: str, method: Method, encoder: Path, tmp_path: Path) -> None:
    shop = workshop(encoder, runtime, tmp_path, draw(12), method)
    kinds = all_in(shop, "int8-static")
    path, _ = shop.make(kinds, tmp_path, "small")
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = exams.vector_exam(full, draw(12, seed=1), exams.vector_output(shop.bundle.manifest, None))
    with shop.load(path, kinds) as session:
        assert 0.95 < exam.score(session)[COSINE] < 1 - 1e-9


def test_a_method_that_is_none(encoder_source: str, tmp_path: Path) -> None:
    asked = [
        "export",
        encoder_source,
        "-o",
        str(tmp_path / "out"),
        "--precision",
        "int8-static",
        "--calibration-method",
        "mean",
    ]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    assert "'mean' is not one of 'minmax', 'percentile', 'entropy'" in result.output
    assert not (tmp_path / "out").exists()


def test_a_method_that_nothing_uses(encoder_source: str, tmp_path: Path) -> None:
    asked = ["export", encoder_source, "-o", str(tmp_path / "out"), "--precision", "int8", "--calibration-method", "entropy"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    assert "--calibration-method entropy is for ranges that are found beforehand, and int8 has none" in result.output
