"""Capture: the graph is the module at every size, its names are the user's, and what cannot be traced is explained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from edgeattn.errors import CaptureError
from edgeattn.exporters.capture import capture, named_outputs
from edgeattn.exporters.sources.factory import from_factory

SEQUENCE = {"x": {0: "batch", 1: "sequence"}}


class Attending(nn.Module):
    """One of torch's own attention modules."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attend(x, x, x, need_weights=False)[0]
        return out


BRANCHING = """
import torch
from torch import nn

class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # the line to name
            return x * 2
        return x

def build():
    return Branching(), {"x": torch.randn(2, 3)}, {"x": {0: "batch"}}
"""


def test_data_dependent_control_flow_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "branching.py"
    path.write_text(BRANCHING)
    source = from_factory(f"{path}:build")
    with pytest.raises(CaptureError, match="control flow depends on the values") as caught:
        capture(source, ["output"])
    assert f"{path}:7 in forward: if x.sum() > 0:  # the line to name" in str(caught.value)
    assert "torch.where" in str(caught.value)


class Positions(nn.Module):
    """Learned positions for exactly six places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class HalfBatch(nn.Module):
    """Reshapes by the example's batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1, 8)


@pytest.mark.parametrize(("module", "symbol"), [(Positions, "sequence"), (HalfBatch, "batch")])
def test_a_size_the_model_fixes_is_named(module: type[nn.Module], symbol: str, captured: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match=f"declared dynamic: {symbol} would be static, [0-9]+ and nothing else") as caught:
        captured(module(), {"x": torch.randn(2, 6, 8)}, SEQUENCE)
    assert f"declare {symbol} static" in str(caught.value)


class InBranch(nn.Module):
    """Attention inside torch.cond, where no later stage would see it."""

    def forward(self, x: Tensor) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x) + 1

        def pass_on(x: Tensor) -> Tensor:
            return x * 2

        chosen: Tensor = torch.cond(x.sum() > 0, attend, pass_on, (x,))
        return chosen


def test_attention_inside_a_branch_is_refused(captured: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match=r"1 attention\(s\) stand inside a branch or loop"):
        captured(InBranch(), {"x": torch.randn(2, 3, 6, 8)})


class Branches(nn.Module):
    """torch.cond without attention stays a branch."""

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,))
        return chosen


class Returns(nn.Module):
    """Returns what `shape` says of three values: one computed twice, one that is the input."""

    def __init__(self, shape: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(x, x * 2)


class ModelOutput(OrderedDict[str, Any]):
    """As transformers has it: a mapping with absent entries."""


RETURNED: dict[str, tuple[Callable[[Tensor, Tensor], Any], list[str]]] = {
    "tensor": (lambda x, y: y, ["output"]),
    "tuple": (lambda x, y: (y, x + 1), ["output_0", "output_1"]),
    "list": (lambda x, y: [y, x + 1], ["output_0", "output_1"]),
    "dict": (lambda x, y: {"b": y, "a": x + 1}, ["b", "a"]),
    "mapping with None": (lambda x, y: ModelOutput(loss=None, logits=y), ["logits"]),
    "the same value three times": (lambda x, y: {"a": y, "b": y, "c": x * 2}, ["a", "b", "c"]),
    "the input itself": (lambda x, y: {"same": x, "also": x, "y": y}, ["same", "also", "y"]),
}


SLOW = {"tensor", "list", "dict"}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in RETURNED])
def test_outputs_keep_their_names_and_values(kind: str, captured: Callable[..., Any]) -> None:
    returns, names = RETURNED[kind]
    result = captured(Returns(returns), {"x": torch.randn(2, 6, 8)}, SEQUENCE)
    assert [value.name for value in result.model.graph.outputs] == names
    result.check(batch=1, sequence=3)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [(None, "NoneType"), ("text", "str"), ({}, "dict"), ((), "tuple"), ({"a": (torch.ones(1),)}, "a: tuple"), (3, "int")],
)
def test_other_results_are_refused(returned: object, kind: str) -> None:
    with pytest.raises(CaptureError, match=f"must return a tensor, or a tuple or dict of tensors; got .*{kind}"):
        named_outputs(returned)


def test_an_output_called_like_an_input_is_refused(captured: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match="'x' is the name of an input and of an output"):
        captured(Returns(lambda x, y: {"x": y}), {"x": torch.randn(2, 6, 8)}, SEQUENCE)


class Clashing(nn.Module):
    """Parameters called like the input, the output, and the attribute that holds a wrapped module."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.output = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.module = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.module(x * self.x)
        return inner + self.output


def test_parameters_may_be_called_like_inputs(captured: Callable[..., Any]) -> None:
    result = captured(Clashing(), {"x": torch.randn(2, 6, 8)}, SEQUENCE)
    assert [value.name for value in result.model.graph.inputs] == ["x"]
    assert "module.bias" in result.model.graph.initializers
    result.check(batch=1, sequence=1)


@pytest.mark.parametrize("module", [Attending, Branches])
def test_nothing_of_this_machine_is_in_the_file(module: type[nn.Module], tmp_path: Path, captured: Callable[..., Any]) -> None:
    result = captured(module(), {"x": torch.randn(2, 6, 12)}, SEQUENCE)
    ir.save(result.model, tmp_path / "model.onnx")
    data = (tmp_path / "model.onnx").read_bytes()
    for telltale in (
        b".py",
        b"site-packages",
        b"forward",
        str(Path.home()).encode() + b"/",
        str(Path(__file__).parent).encode(),
    ):
        assert telltale not in data


def test_weights_keep_the_names_of_the_users_module(captured: Callable[..., Any]) -> None:
    module = Attending()
    nn.init.normal_(module.attend.out_proj.bias)  # zeros would be shared with other zeros
    names = set(captured(module, {"x": torch.randn(2, 6, 12)}, SEQUENCE).model.graph.initializers)
    assert {"attend.in_proj_bias", "attend.out_proj.bias"} <= names
    assert not [name for name in names if name.startswith("module.")]


@pytest.mark.parametrize("names", [("batch", "sequence"), ("s1", "s0")])
def test_dynamic_sizes_keep_the_users_names(names: tuple[str, str], captured: Callable[..., Any]) -> None:
    result = captured(Attending(), {"x": torch.randn(2, 6, 12)}, {"x": dict(enumerate(names))})
    for value in (*result.model.graph.inputs, *result.model.graph.outputs):
        assert [str(dim) for dim in value.shape] == [*names, "12"]
    result.check(**dict.fromkeys(names, 3))
