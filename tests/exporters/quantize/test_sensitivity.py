"""Signal over noise of each layer alone: the formula, and that it is the layer's own error, on either runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import edgeattn
from edgeattn.cli.precision import show
from edgeattn.exporters.quantize import onnx_file
from edgeattn.exporters.quantize.kinds import OPENVINO, ORT, kind, kinds_for
from edgeattn.exporters.quantize.observing import observed
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.sensitivity import sensitivities, sqnr
from edgeattn.loading import PORTABLE
from tests.exporters.quantize.small_encoder import PRODUCTS, draw, workshop
from tests.exporters.quantize.trying import windows

RUNTIMES = (ORT, OPENVINO)
POOLED = """
import torch
from torch import nn


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after, self.head = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 80)

    def forward(self, x):
        x = self.after(torch.relu(self.before(x)))
        x = nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        return self.head(x[:, :1])


def make():
    torch.manual_seed(0)
    return Pooled(), {"x": torch.randn(2, 9, 64)}, {"x": {0: "batch", 1: torch.export.Dim("length", max=256)}}
"""


def test_decibels() -> None:
    """A hundredth of the amplitude is 40 dB below."""
    truth = np.random.default_rng(0).standard_normal((50, 60)).astype(np.float32)
    assert sqnr(truth, truth * np.float32(1.01)) == pytest.approx(40, abs=1e-3)
    assert sqnr(truth, truth) == sqnr(0 * truth, 0 * truth) == 200.0
    for lost in (np.full_like(truth, np.nan), np.full_like(truth, np.inf)):
        assert sqnr(truth, lost) == -200.0
    assert sqnr(0 * truth, truth) == -200.0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_layer_of_every_kind(runtime: str, encoder: Path, tmp_path: Path) -> None:
    """Eight bits lose 24 dB less than four, and sixteen next to nothing."""
    found = sensitivities(workshop(encoder, runtime, tmp_path, draw(6)), kinds_for(runtime))
    assert list(found) == [each.name for each in kinds_for(runtime)]
    assert all(len(layers) == PRODUCTS for layers in found.values())
    for layer, four in found["int4"].items():
        assert 10 < four < found["int8"][layer] - 12
        assert found["int8"][layer] < 60 < found["fp16"][layer]
        assert 20 < found["int8-static"][layer] < 60


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_decoder(runtime: str, decoder: Path, tmp_path: Path) -> None:
    shop = workshop(decoder, runtime, tmp_path, windows(4))
    (layers,) = sensitivities(shop, [kind(runtime, "int8")]).values()
    assert layers.keys() == {"model.lm_head.weight.T"}  # the others are small enough to stay as they are
    assert all(20 < value < 60 for value in layers.values())


def test_it_is_the_error_of_the_layer_alone(encoder: Path, tmp_path: Path) -> None:
    """Weights in half precision are a formula of one line, and what the layer meets is what the whole model computes."""
    samples = draw(3)
    shop = workshop(
        encoder, ORT, tmp_path, [draw(1, seed=5)[0], samples[0], draw(1, seed=6)[0], samples[1], samples[2], samples[2]]
    )
    model = onnx_file.read(shop.path)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = {
        node.input[1]: node.input[0] for node in model.graph.node if node.name in shop.layers and node.op_type == "MatMul"
    }
    met = list(observed(model, sorted(set(products.values())), samples))
    for layer, found in sensitivities(shop, [kind(ORT, "fp16")])["fp16"].items():
        inputs = np.concatenate([arrays[products[layer]].reshape(-1, len(weights[layer])) for arrays in met])
        half = weights[layer].astype(np.float16).astype(np.float32)
        assert found == pytest.approx(sqnr(inputs @ weights[layer], inputs @ half), abs=0.1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_product_that_reads_one_position_of_each_sample(runtime: str, tmp_path: Path) -> None:
    """A classifier's input has as many rows as there are samples, those of the layers before it have more."""
    source = tmp_path / "pooled.py"
    source.write_text(POOLED)
    output = tmp_path / "pooled"
    edgeattn.export(f"{source}:make", output=output, runtimes=[f"{runtime}:cpu"])
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, length, 64), dtype=np.float32)} for length in (90, 100, 110, 120, 130, 140)]
    (layers,) = sensitivities(workshop(output, runtime, tmp_path, samples), [kind(runtime, "int8")]).values()
    assert len(layers) == 3
    assert all(20 < value < 60 for value in layers.values())


def test_the_table_has_the_middle_and_the_worst_layer(capsys: pytest.CaptureFixture[str]) -> None:
    layers = {"q+k+v": 20.04, "down": 30.0, "up": 41.0}
    show(Outcome("onnxruntime:cpu", (), None, {}, 0, sensitivity={"int8": layers, "fp16": {"down": 70.0}}))
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert ["int8", "30.0 dB", "20.0 dB", "q and 2 merged with it"] in cells
    assert ["fp16", "70.0 dB", "70.0 dB", "down"] in cells


@pytest.mark.parametrize("missing", ["flavour", "products"])
def test_nothing_to_look_at(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    shop = workshop(encoder, ORT, tmp_path, draw(2))
    if missing == "flavour":
        kept = tuple(flavour for flavour in shop.bundle.manifest.flavours if flavour.target != PORTABLE)
        shop = replace(shop, bundle=replace(shop.bundle, manifest=replace(shop.bundle.manifest, flavours=kept)))
    else:
        monkeypatch.setattr(onnx_file, "layers", lambda model: {})
    assert sensitivities(shop, kinds_for(ORT)) == {}
