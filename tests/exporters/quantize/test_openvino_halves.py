"""What float16 cannot hold, on OpenVINO, whose own pass cuts it off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from openvino import opset13

from edgeattn.exporters.quantize import openvino_file
from edgeattn.exporters.quantize.kinds import OPENVINO, kind

WIDTH = 64


def test_weights_that_float16_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large, usual = (rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(2))
    large[3, 5] = 300000.0
    x = opset13.parameter([-1, WIDTH], np.float32, name="x")
    hidden = opset13.matmul(x, opset13.constant(large, name="large"), False, False)
    y = opset13.matmul(hidden, opset13.constant(usual, name="usual"), False, False)
    openvino.save_model(openvino.Model([y], [x], "two"), tmp_path / "two.xml", compress_to_fp16=False)

    layers = openvino_file.layers(openvino_file.read(tmp_path / "two.xml"))
    assert len(layers) == 2
    model = openvino_file.quantized(openvino_file.read(tmp_path / "two.xml"), dict.fromkeys(layers, kind(OPENVINO, "fp16")), [])
    types = sorted(op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant")
    assert types == ["f16", "f32"]
    feeds = rng.standard_normal((4, WIDTH)).astype(np.float32)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    got = openvino.Core().compile_model(model, "CPU", settings)([feeds])[0]
    expected = feeds.astype(np.float64) @ large @ usual
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
