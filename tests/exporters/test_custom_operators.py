"""A user's own torch operator: one node with its body in the file, exact at every size, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.inliner import inline_local_functions
from onnxscript import opset18, script
from onnxscript.values import Opset
from torch import Tensor, nn

import edgeattn
from edgeattn.exporters import CustomOperator, register_custom_operator
from edgeattn.exporters.export import ExportFailedError
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import get
from edgeattn.models import create

DYNAMIC = {"x": {0: "batch", 1: "sequence"}}


@torch.library.custom_op("edgeattn_tests::swish", mutates_args=())
def swish(x: Tensor, beta: float = 1.5, *, shift: int = 2) -> Tensor:
    """x sigmoid(beta x) + shift: a float with a default, and a whole number that is passed by keyword."""
    return x * torch.sigmoid(beta * x) + shift


@swish.register_fake
def _(x: Tensor, beta: float = 1.5, *, shift: int = 2) -> Tensor:
    return torch.empty_like(x)


@script(Opset("tests.custom", 3))  # type: ignore[untyped-decorator]
def swish_body(x, beta: float, moved: int):  # type: ignore[no-untyped-def]
    return x * opset18.Sigmoid(beta * x) + moved


SWISH = CustomOperator(swish, "Swish", "tests.custom", swish_body, attributes={"shift": "moved"}, version=3)


@torch.library.custom_op("edgeattn_tests::spread", mutates_args=())
def spread(x: Tensor, weight: Tensor, scales: list[float], axes: list[int], negate: bool) -> tuple[Tensor, Tensor]:
    """The mean over axes, and x by a scale for each channel; with attributes that are lists, and a bool."""
    scaled = x * torch.tensor(scales) * weight
    return x.mean(axes, keepdim=True), -scaled if negate else scaled


@spread.register_fake
def _(x: Tensor, weight: Tensor, scales: list[float], axes: list[int], negate: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x.mean(axes, keepdim=True)), torch.empty_like(x)


def spread_body(
    b: Builder, x: ir.Value, weight: ir.Value, scales: ir.Value, axes: ir.Value, negate: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """As a callable: attributes come as values."""
    scaled = b.op("Mul", b.op("Mul", x, scales), weight)
    flag = b.op("Cast", negate, to=ir.DataType.BOOL)
    return b.op("ReduceMean", x, axes, keepdims=1), b.op("Where", flag, b.op("Neg", scaled), scaled)


SPREAD = CustomOperator(torch.ops.edgeattn_tests.spread, "Spread", "tests.custom", spread_body, version=3)


class Model(nn.Module):
    """Attention between custom operators: Swish twice with other attributes, Spread with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = create("causal", embed_dim=8, num_heads=2)
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, S, 8) -> out (B, S, 8) and mean (B, 1, 8)."""
        y = swish(self.attention(swish(x)), 0.25, shift=-1)
        mean, scaled = spread(y, self.weight, [0.5 * i for i in range(8)], [1], True)
        return {"out": scaled + x, "mean": mean}


@pytest.fixture(autouse=True)
def _registered() -> None:
    """Registering an operator again replaces it, so each test starts from these."""
    register_custom_operator(SWISH)
    register_custom_operator(SPREAD)


@pytest.fixture(scope="module")
def model(captured: Callable[..., Any]) -> Any:
    register_custom_operator(SWISH)
    register_custom_operator(SPREAD)
    return captured(Model(), {"x": torch.randn(2, 5, 8)}, DYNAMIC)


def custom_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == "tests.custom"]


def test_one_node_each_with_every_attribute(model: Any) -> None:
    """Arguments left to their defaults, renamed, bools and lists are all on the node: a kernel finds them nowhere else."""
    found = [(node.op_type, {name: attr.value for name, attr in node.attributes.items()}) for node in custom_nodes(model.model)]
    assert found == [
        ("Swish", {"beta": 1.5, "moved": 2}),
        ("Swish", {"beta": 0.25, "moved": -1}),
        ("Spread", {"scales": (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5), "axes": (1,), "negate": 1}),
    ]
    assert sorted(name for domain, name, _ in model.model.functions if domain == "tests.custom") == ["Spread", "Swish"]
    assert model.model.graph.opset_imports["tests.custom"] == 3


def test_dynamic_sizes_come_from_the_fake_kernel(model: Any) -> None:
    shapes = [[str(dim) for dim in value.shape or ()] for node in custom_nodes(model.model) for value in node.outputs]
    assert shapes == [["batch", "sequence", "8"], ["batch", "sequence", "8"], ["batch", "1", "8"], ["batch", "sequence", "8"]]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (2, 65)])
def test_body_is_the_operator_at_every_size(model: Any, sizes: tuple[int, int]) -> None:
    """On two interpreters, against the torch operator itself."""
    model.check(batch=sizes[0], sequence=sizes[1])


def test_kept_for_a_runtime_with_functions_at_any_opset(model: Any) -> None:
    """The form of attention asks for opset 23, and a body that stayed in 18 would not be valid beside it."""
    (site,) = (node.name for node in model.model.graph if node.domain == "edgeattn")
    lowered = lower(model.model, {site: get("attention-23")}, {}, functions=True)
    assert len(custom_nodes(lowered)) == 3
    assert {(f.domain, f.name): f.opset_imports[""] for f in lowered.functions.values()} == {
        ("tests.custom", "Swish"): 23,
        ("tests.custom", "Spread"): 23,
    }
    assert custom_nodes(model.model)[0].op_type == "Swish"
    assert {f.opset_imports[""] for f in model.model.functions.values()} == {18}, "the canonical model was changed"
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    expect_same(lowered, model)


def test_written_out_for_any_other_runtime(model: Any) -> None:
    (site,) = (node.name for node in model.model.graph if node.domain == "edgeattn")
    lowered = lower(model.model, {site: get("attention-23")}, {})
    assert (len(lowered.functions), custom_nodes(lowered)) == (0, [])
    assert set(lowered.graph.opset_imports) == {""}
    expect_same(lowered, model)


def expect_same(lowered: ir.Model, model: Any) -> None:
    inputs = model.samples(batch=2, sequence=9)
    expected = model.torch(inputs)
    session = onnxruntime.InferenceSession(ir.to_proto(lowered).SerializeToString(), providers=["CPUExecutionProvider"])
    for name, array in zip(expected, session.run(list(expected), {"x": inputs["x"].numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(array), torch.from_numpy(expected[name]), rtol=0, atol=5e-6)


def test_inlined_as_onnx_itself_inlines(model: Any) -> None:
    """The function is one that other tools understand."""
    inlined = inline_local_functions(ir.to_proto(model.model))
    assert {node.domain for node in inlined.graph.node} == {""}


def test_bundle_holds_the_node_where_it_is_run(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(2, 5, 8)}
    report = edgeattn.export(
        Model(), inputs, dynamic=DYNAMIC, output=tmp_path / "b", runtimes=["onnxruntime:cpu", "openvino:cpu"]
    )
    assert report.passed
    domains = {row.flavour.target: "tests.custom" in row.flavour.domains for row in report.flavours}
    assert domains == {"onnxruntime:cpu": True, "openvino:cpu": False, "portable": False, "canonical": True}
    with edgeattn.load(tmp_path / "b") as session:
        assert session.effective.details["custom operators"] == "tests.custom::Spread body, tests.custom::Swish body"
        assert session.effective.summary().endswith("tests.custom::Spread body, tests.custom::Swish body")
    with edgeattn.load(tmp_path / "b", runtime="openvino") as session:
        assert "custom operators" not in session.effective.details


def test_body_of_other_maths_fails_the_export(tmp_path: Path) -> None:
    wrong = CustomOperator(swish, "Swish", "tests.custom", lambda b, x, beta, shift: b.op("Mul", x, beta), version=3)
    register_custom_operator(wrong)
    with pytest.raises(ExportFailedError, match="onnxruntime:cpu: out at"):
        edgeattn.export(Model(), {"x": torch.randn(2, 5, 8)}, dynamic=DYNAMIC, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()
