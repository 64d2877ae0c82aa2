"""Graph passes: what each changes, what it must leave alone, and that numbers stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import Tensor, nn

from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import LOWERINGS, get
from edgeattn.exporters.passes.dimensions import ShareDimensions, rename_dimensions
from edgeattn.exporters.passes.gelu import OrderGelu
from edgeattn.exporters.passes.outputs import output_names, separate_outputs
from edgeattn.exporters.passes.reshapes import CancelMovement
from edgeattn.exporters.passes.rms_norm import DivideByRoot
from edgeattn.exporters.sites import find_sites
from edgeattn.models import create


def _model(body: str, head: str = "float[B,S,8] x") -> ir.Model:
    """A model of opset 18 from onnx's text form; `body` is `(...) => (...) { ... }` without the inputs."""
    text = f'<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]> g ({head}) => {body}'
    model: ir.Model = ir.from_proto(parser.parse_model(text))
    return model


def _run(model: ir.Model, **feeds: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return list(session.run(None, feeds))


def _operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


# ----- GELU

AS_TORCH = """(float[B,S,8] y) {
  root = Constant<value = float {1.4142135381698608}>()
  one = Constant<value = float {1.0}>()
  half = Constant<value = float {0.5}>()
  d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)
}"""


def _optimized(model: ir.Model, folder: Path) -> list[str]:
    """The operators that ONNX Runtime leaves after its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def test_onnxruntime_fuses_an_exact_gelu_only_in_the_written_order(tmp_path: Path) -> None:
    model = _model(AS_TORCH)
    assert "Gelu" not in _optimized(model, tmp_path)
    assert OrderGelu()(model).modified
    assert "Gelu" in _optimized(model, tmp_path)


def test_ordering_a_gelu_keeps_its_numbers_and_the_output_name() -> None:
    x = np.linspace(-6, 6, 48, dtype=np.float32).reshape(1, 6, 8)
    model = _model(AS_TORCH)
    before = _run(model, x=x)[0]
    OrderGelu()(model)
    assert output_names(model) == ["y"]
    after = _run(model, x=x)[0]
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(after, nn.functional.gelu(torch.from_numpy(x)).numpy(), atol=1e-6)
    assert not OrderGelu()(model).modified


@pytest.mark.parametrize(
    ("old", "new"),
    [("1.4142135381698608", "1.5"), ("{1.0}", "{1.1}"), ("{0.5}", "{0.25}"), ("Erf(d)", "Tanh(d)"), ("Mul(x, h)", "Mul(d, h)")],
)
def test_what_is_no_exact_gelu_stays(old: str, new: str) -> None:
    model = _model(AS_TORCH.replace(old, new))
    assert not OrderGelu()(model).modified


class Feed(nn.Module):
    """A feed-forward block, exact or approximate, that ends in its GELU or goes on."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(8, 16), nn.Linear(16, 8), nn.GELU(approximate=approximate)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        wide = self.act(self.up(x))
        return {"wide": wide, "y": self.down(wide)}


@pytest.mark.parametrize(("approximate", "fused"), [("none", True), ("tanh", False)])
def test_captured_gelus(approximate: str, fused: bool, captured: Callable[..., Any], tmp_path: Path) -> None:
    result = captured(Feed(approximate), {"x": torch.randn(2, 6, 8)}, {"x": {0: "batch", 1: "sequence"}})
    assert output_names(result.model) == ["wide", "y"]
    result.check(batch=3, sequence=5)
    operators = _optimized(result.model, tmp_path)
    assert bool({"Gelu", "BiasGelu"} & set(operators)) is fused
    assert ("Tanh" in _operators(result.model)) is not fused


# ----- root mean square

RSQRT = """(float[B,S,8] y) {
  two = Constant<value = float {2.0}>()
  eps = Constant<value = float {0.00001}>()
  scale = Constant<value = float[8] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>()
  axis = Constant<value = int64[1] {-1}>()
  p = Pow(x, two)  m = ReduceMean(p, axis)  a = Add(m, eps)  s = Sqrt(a)  r = Reciprocal(s)  n = Mul(x, r)  y = Mul(scale, n)
}"""


def test_a_root_mean_square_is_fused_and_keeps_its_numbers(tmp_path: Path) -> None:
    model, x = _model(RSQRT), np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    (before,) = _run(model, x=x)
    assert "SimplifiedLayerNormalization" not in _optimized(model, tmp_path)
    assert DivideByRoot()(model).modified
    assert "SimplifiedLayerNormalization" in _optimized(model, tmp_path)
    (after,) = _run(model, x=x)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_a_reciprocal_of_something_else_stays() -> None:
    model = _model("(float[B,S,8] y) { r = Reciprocal(x)  y = Mul(x, r) }")
    assert not DivideByRoot()(model).modified


# ----- movement


def test_two_transposes_that_cancel_vanish() -> None:
    model = _model("(float[B,S,8] y) { a = Transpose<perm = [1,2,0]>(x)  b = Transpose<perm = [2,0,1]>(a)  y = Relu(b) }")
    assert CancelMovement()(model).modified
    relu = model.graph.outputs[0].producer()
    assert relu is not None
    assert relu.inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize(
    "body",
    [
        "(float[S,8,B] y) { a = Transpose<perm = [1,2,0]>(x)  b = Transpose<perm = [0,1,2]>(a)  y = Relu(b) }",
        "(float[8,B,S] y) { a = Transpose<perm = [1,2,0]>(x)  b = Transpose<perm = [1,2,0]>(a)  y = Relu(b) }",
        "(float[B,S,8] y) { a = Transpose<perm = [1,2,0]>(x)  r = Relu(a)  b = Transpose<perm = [2,0,1]>(r)  y = Relu(b) }",
    ],
)
def test_transposes_that_do_not_cancel_stay(body: str) -> None:
    model = _model(body)
    before = len(_operators(model))
    assert not CancelMovement()(model).modified
    assert len(_operators(model)) == before


def _shaped(model: ir.Model, **shapes: list[Any]) -> ir.Model:
    for node in model.graph:
        for value in node.outputs:
            if value.name in shapes:
                value.shape = ir.Shape(shapes[value.name])
    return model


SPLIT = "(float[B,S,8] y) { a = Reshape(x, split)  b = Reshape(a, join)  y = Relu(b) }"


def test_reshapes_back_to_the_first_shape_vanish() -> None:
    model = _shaped(_model(SPLIT, "float[B,S,8] x, int64[4] split, int64[3] join"), a=["B", "S", 2, 4], b=["B", "S", 8])
    assert CancelMovement()(model).modified
    relu = model.graph.outputs[0].producer()
    assert relu is not None
    assert relu.inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize("last", [["B", "T", 8], ["S", "B", 8], ["B", None, 8], ["B", "S", 4, 2]])
def test_reshapes_to_another_or_unknown_shape_stay(last: list[Any]) -> None:
    model = _model(SPLIT, "float[B,S,8] x, int64[4] split, int64[3] join")
    assert not CancelMovement()(_shaped(model, a=["B", "S", 2, 4], b=last)).modified


def test_unknown_is_not_equal_to_unknown() -> None:
    model = _model(SPLIT, "float[?,S,8] x, int64[4] split, int64[3] join")
    assert not CancelMovement()(_shaped(model, a=[None, "S", 2, 4], b=[None, "S", 8])).modified


def test_an_output_of_the_graph_is_not_cancelled() -> None:
    model = _model("(float[B,S,8] y) { a = Transpose<perm = [1,2,0]>(x)  y = Transpose<perm = [2,0,1]>(a) }")
    assert not CancelMovement()(model).modified
    assert output_names(model) == ["y"]


# ----- dimensions


def test_equal_dimensions_are_read_from_the_input() -> None:
    model = _model(
        "(int64[1] n, int64[1] m) { r = Relu(x)  n = Shape<start = 1, end = 2>(r)  m = Shape<start = 0, end = 1>(r) }"
    )
    _shaped(model, r=["B", "S", 8])
    assert ShareDimensions()(model).modified
    assert [out.item() for out in _run(model, x=np.zeros((2, 5, 8), np.float32))] == [5, 2]
    reads = [node for node in model.graph if node.op_type == "Shape"]
    assert all(node.inputs[0] is model.graph.inputs[0] for node in reads)
    assert not ShareDimensions()(model).modified


@pytest.mark.parametrize(("start", "end", "axis"), [(-2, -1, 1), (1, 2, 1), (-3, -2, 0)])
def test_negative_axes_count_from_the_end(start: int, end: int, axis: int) -> None:
    model = _model(f"(int64[1] n) {{ r = Relu(x)  n = Shape<start = {start}, end = {end}>(r) }}")
    ShareDimensions()(_shaped(model, r=["B", "S", 8]))
    assert _run(model, x=np.zeros((2, 5, 8), np.float32))[0].item() == (2, 5)[axis]


@pytest.mark.parametrize("shape", [["B", None, 8], ["B", "other", 8], ["B", "2*S", 8], ["B", 5, 8]])
def test_dimensions_that_no_input_has_stay(shape: list[Any]) -> None:
    model = _model("(int64[1] n) { r = Relu(x)  n = Shape<start = 1, end = 2>(r) }")
    assert not ShareDimensions()(_shaped(model, r=shape)).modified


def test_whole_shapes_stay() -> None:
    model = _model("(int64[3] n) { r = Relu(x)  n = Shape(r) }")
    assert not ShareDimensions()(_shaped(model, r=["B", "S", 8])).modified


def test_dimensions_are_renamed_everywhere_at_once() -> None:
    """Swapped names, names inside expressions, and names that begin with another's."""
    model = _model("(float[s1,s0,8] y) { r = Relu(x)  y = Transpose<perm = [1,0,2]>(r) }", "float[s0,s1,8] x")
    _shaped(model, r=["s0*s1", "s0 + 2*s10", 8])
    rename_dimensions(model, {"x": {0: "s1", 1: "length"}})
    assert str(model.graph.inputs[0].shape) == "[s1,length,8]"
    assert str(model.graph.outputs[0].shape) == "[length,s1,8]"
    relu = next(iter(model.graph))
    assert str(relu.outputs[0].shape) == "[s1*length,s1 + 2*s10,8]"


def test_axes_that_are_not_dynamic_are_not_renamed() -> None:
    model = _model("(float[B,S,8] y) { y = Relu(x) }")
    rename_dimensions(model, {"x": {2: "width"}, "absent": {0: "B"}})
    assert str(model.graph.inputs[0].shape) == "[B,S,8]"


# ----- outputs


def test_merged_outputs_are_separated_under_their_names() -> None:
    model = _model("(float[B,S,8] y) { y = Relu(x) }")
    relu, x = model.graph.outputs[0], model.graph.inputs[0]
    model.graph.outputs.extend([relu, x])
    separate_outputs(model, ["a", "b", "c"])
    assert (output_names(model), x.name) == (["a", "b", "c"], "x")
    value = np.array([[[-1.0] * 8]], np.float32)
    assert [float(out.flat[0]) for out in _run(model, x=value)] == [0, 0, -1]


# ----- the pipelines


class Tiny(nn.Module):
    """Two layers of an encoder as BERT has it, with named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(create("multi_head", embed_dim=8, num_heads=2, mask="key_padding") for _ in range(2))
        self.feed = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = x + layer(x, mask=attention_mask.bool())
        return {"hidden": self.feed(x), "first": x[:, 0]}


@pytest.fixture(scope="module")
def tiny(captured: Callable[..., Any]) -> Any:
    """The canonical model of `Tiny`."""
    axes = {0: "batch", 1: "sequence"}
    inputs = {"x": torch.randn(2, 6, 8), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    return captured(Tiny(), inputs, {"x": axes, "attention_mask": axes})


def test_lowering_keeps_names_and_numbers_and_the_canonical_model(tiny: Any, ort: Any) -> None:
    canonical = ir.to_proto(tiny.model).SerializeToString()
    sites = find_sites(tiny.model)
    assert [(site.name, site.module) for site in sites] == [(site.name, f"layers.{i}") for i, site in enumerate(sites)]
    assert len({site.name for site in sites}) == 2
    inputs = tiny.samples(batch=3, sequence=7)
    expected = tiny.torch(inputs)
    for lowering in LOWERINGS.values():
        if any(lowering.accepts(site.core({})) for site in sites):
            continue
        model = lower(tiny.model, {site.name: lowering for site in sites}, {})
        assert output_names(model) == ["hidden", "first"]
        assert model.graph.opset_imports == {"": lowering.opset, **dict.fromkeys(lowering.domains, 1)}
        assert len(model.functions) == 0
        got = ort(model, inputs)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, atol=2e-6, err_msg=lowering.name)
    assert ir.to_proto(tiny.model).SerializeToString() == canonical


def test_sites_of_one_model_may_have_different_forms(tiny: Any, ort: Any) -> None:
    first, second = find_sites(tiny.model)
    model = lower(tiny.model, {first.name: get("contrib-mha"), second.name: get("attention-23")}, {})
    assert {"MultiHeadAttention", "Attention"} <= set(_operators(model))
    inputs = tiny.samples(batch=1, sequence=5)
    np.testing.assert_allclose(ort(model, inputs)["hidden"], tiny.torch(inputs)["hidden"], atol=2e-6)


@pytest.mark.parametrize(("name", "operator"), [("contrib-mha", "MultiHeadAttention"), ("attention-23", "Attention")])
def test_forms_on_rows_leave_no_transpose(name: str, operator: str, tiny: Any) -> None:
    model = lower(tiny.model, {site.name: get(name) for site in find_sites(tiny.model)}, {})
    assert _operators(model).count(operator) == 2
    assert "Transpose" not in _operators(model)


def test_the_mask_is_prepared_once_for_all_layers(tiny: Any) -> None:
    model = lower(tiny.model, {site.name: get("decomposed") for site in find_sites(tiny.model)}, {})
    assert _operators(model).count("Softmax") == 2
    assert _operators(model).count("ReduceMax") == 1
    assert _operators(model).count("Where") == 1


def test_border_values_keep_their_names(tiny: Any) -> None:
    """Forms on (B, S, H * D) have no (B, H, S, D) left to name: the model's transposes cancel against theirs."""
    sites = find_sites(tiny.model)
    borders = {site.node.outputs[0].name for site in sites}
    model = lower(tiny.model, {site.name: get("decomposed") for site in sites}, {})
    assert len(borders) == 2
    assert borders <= {value.name for node in model.graph for value in node.outputs}
