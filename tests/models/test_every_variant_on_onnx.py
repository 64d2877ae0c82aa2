"""Every variant's example as a canonical ONNX model, whose bodies ONNX Runtime runs, against the module."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from edgeattn.exporters.capture import capture
from edgeattn.exporters.sources.module import from_module
from edgeattn.models import example

SIZES = ({"batch": 1, "sequence": 1, "context": 1}, {"batch": 3, "sequence": 13, "context": 7})


def test_onnx_runtime_says_what_the_module_says(sampled: str) -> None:
    module, inputs, dynamic = example(sampled)
    source = from_module(module, inputs, dynamic, name=sampled)
    model = ir.to_proto(capture(source, ["output"])).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for sizes in SIZES:
        given = source.sample(sizes, torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = module(**given).numpy()
        (got,) = session.run(None, {key: x.numpy() for key, x in given.items()})
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6, err_msg=str(sizes))
