"""The operator as OpenVINO operations of one's own choice: `python with_openvino.py BUNDLE`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import openvino.opset13 as ov
from openvino.frontend.onnx import ConversionExtension

import edgeattn


def convert(node: Any) -> Any:
    """x / rms(x) * weight * silu(gate): Swish is one operation here, where the portable body has two."""
    x, gate, weight = (node.get_input(i) for i in range(3))
    mean = ov.reduce_mean(ov.multiply(x, x), np.array([-1]), keep_dims=True)
    normed = ov.divide(x, ov.sqrt(ov.add(mean, np.float32(node.get_attribute("eps")))))
    return ov.multiply(ov.multiply(normed, weight), ov.swish(gate)).outputs()


def main(path: str) -> None:
    """The flavour for onnxruntime keeps the operator as one node, which the extension converts."""
    bundle = edgeattn.open_bundle(path)
    extension = ConversionExtension("GatedRMSNorm", "gating", convert)
    x = np.random.default_rng(0).standard_normal((1, 7, 64), dtype=np.float32)
    with (
        edgeattn.load(bundle, runtime="openvino") as plain,
        edgeattn.load(bundle, runtime="openvino", flavour="onnxruntime:cpu", extensions=[extension]) as extended,
    ):
        difference = np.abs(plain.run({"x": x})["hidden"] - extended.run({"x": x})["hidden"]).max()
        print(extended.effective.details["custom operators"], f"largest difference from the body: {difference:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
