"""A weight that a model uses as it is and transposed is stored once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator

from edgeattn.exporters.capture import capture
from edgeattn.exporters.sources.module import from_module


class _Tied(torch.nn.Module):
    """An embedding that is also the last layer, and a matrix that differs from it in one element."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(20, 12)
        self.like = torch.nn.Linear(12, 20)
        self.back = torch.nn.Linear(20, 12)
        self.last = torch.nn.Linear(12, 20, bias=False)
        self.last.weight = self.embed.weight
        with torch.no_grad():
            self.like.weight.copy_(self.embed.weight)
            self.like.weight[5, 5] += 1

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.last(self.back(self.like(self.embed(ids)).tanh()))
        return x


def test_the_tied_matrix_is_stored_once_as_it_is_looked_up() -> None:
    module, ids = _Tied(), torch.arange(12).reshape(3, 4)
    model = capture(from_module(module, {"ids": ids}, {"ids": {0: "batch"}}), ["output"])
    matrices = {name: value.shape for name, value in model.graph.initializers.items() if len(value.shape or ()) == 2}
    assert matrices == {"last.weight": (20, 12), "like.weight.T": (12, 20), "back.weight.T": (20, 12)}
    [gather] = [node for node in model.graph if node.op_type == "Gather"]
    assert gather.inputs[0] is model.graph.initializers["last.weight"]
    [got] = ReferenceEvaluator(ir.to_proto(model)).run(None, {"ids": ids.numpy()})
    np.testing.assert_allclose(got, module(ids).detach().numpy(), atol=1e-5)


class _Repeated(torch.nn.Module):
    """One layer applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(40, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.layer(x).tanh()
        return x


def test_a_layer_that_is_applied_again_is_stored_once() -> None:
    x = torch.ones(3, 2, 40)
    model = capture(from_module(_Repeated(), {"x": x}, {"x": {0: "batch"}}), ["output"])
    assert [name for name, value in model.graph.initializers.items() if len(value.shape or ()) == 2] == ["layer.weight.T"]
