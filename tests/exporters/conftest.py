"""Capturing a module and running what came out, on the two interpreters that know nothing of edgeattn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeattn.exporters.capture import capture, named_outputs
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.module import DynamicAxes, from_module

# Machines that run tests are busy: the time of one example says nothing, and a failure must come back.
settings.register_profile("edgeattn", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeattn")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Captured:
    """A source and its canonical model."""

    source: Source
    model: ir.Model

    def samples(self, **sizes: int) -> dict[str, torch.Tensor]:
        """Inputs of the given dynamic sizes."""
        return self.source.sample(sizes, torch.Generator().manual_seed(sum(sizes.values())))

    def torch(self, inputs: Mapping[str, torch.Tensor]) -> Arrays:
        """What the user's module says."""
        with torch.no_grad():
            return {name: tensor.numpy() for name, tensor in named_outputs(self.source.module(**inputs)).items()}

    def check(self, **sizes: int) -> None:
        """The model equals the module at these sizes, on ONNX Runtime and on onnx's own interpreter."""
        inputs = self.samples(**sizes)
        expected = self.torch(inputs)
        for engine in (run_ort, run_reference):
            got = engine(self.model, inputs)
            assert list(got) == list(expected)
            for name, array in expected.items():
                assert got[name].shape == array.shape, (name, sizes)
                np.testing.assert_allclose(got[name], array, rtol=0, atol=5e-6, err_msg=f"{name} at {sizes}")


def _capture(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], dynamic: DynamicAxes | None = None) -> Captured:
    source = from_module(module, inputs, dynamic)
    with torch.no_grad():
        outputs = list(named_outputs(source.module(**inputs)))
    return Captured(source, capture(source, outputs))


def run_ort(model: ir.Model, inputs: Mapping[str, torch.Tensor]) -> Arrays:
    """Run an onnx-ir model on ONNX Runtime."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: x.numpy() for name, x in inputs.items()}), strict=True))


def run_reference(model: ir.Model, inputs: Mapping[str, torch.Tensor]) -> Arrays:
    """Run an onnx-ir model in onnx.reference."""
    proto: onnx.ModelProto = ir.to_proto(model)
    names = [value.name for value in proto.graph.output]
    arrays = ReferenceEvaluator(proto).run(None, {name: x.numpy() for name, x in inputs.items()})
    return dict(zip(names, arrays, strict=True))


Capture = Callable[..., Captured]
Engine = Callable[[ir.Model, Mapping[str, torch.Tensor]], Arrays]


@pytest.fixture(scope="session")
def captured() -> Capture:
    """captured(module, inputs, dynamic): the canonical model of a live module."""
    return _capture


@pytest.fixture
def ort() -> Engine:
    """ort(model, inputs): run an onnx-ir model on ONNX Runtime."""
    return run_ort
