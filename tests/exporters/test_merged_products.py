"""Products of one input as one, in a model that has a cache."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeattn.exporters.passes.merged_products import MergeProducts
from edgeattn.exporters.quantize import onnx_file
from edgeattn.exporters.quantize.kinds import ORT, kind
from edgeattn.manifest import PAST

WIDTHS = {"q": 128, "k": 64, "v": 64}


def model(cache: bool = True) -> onnx.ModelProto:
    """x -> q, k, v; z = q out; a product whose weights something else reads too; and an input as long as a past."""
    rng = np.random.default_rng(0)
    weights = {f"W{name}": rng.normal(size=(64, width)) for name, width in {**WIDTHS, "shared": 64}.items()}
    weights["Wout"] = rng.normal(size=(128, 64))
    nodes = [helper.make_node("MatMul", ["x", f"W{name}"], [name], f"layer.{name}") for name in WIDTHS]
    nodes += [
        helper.make_node("MatMul", ["q", "Wout"], ["z"], "layer.out"),
        helper.make_node("MatMul", ["x", "Wshared"], ["s"], "layer.shared"),
        helper.make_node("Gather", ["Wshared", "row"], ["r"], "layer.row"),
    ]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("z", "k", "v", "s", "r")]
    inputs = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "S", 64]),
        helper.make_tensor_value_info("row", onnx.TensorProto.INT64, [1]),
        helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [PAST if cache else "other"]),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(proto: onnx.ModelProto) -> list[np.ndarray]:
    drawn = np.random.default_rng(1).normal(size=(1, 3, 64)).astype(np.float32)
    feeds = {"x": drawn, "row": np.array([2]), "past": np.zeros(1, np.float32)}
    found: list[np.ndarray] = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )
    return found


def merged(proto: onnx.ModelProto) -> onnx.ModelProto:
    found = ir.from_proto(proto)
    MergeProducts()(found)
    return ir.to_proto(found)


def test_those_of_one_input_are_one_and_the_others_stay() -> None:
    before = model()
    after = merged(before)
    products = [node.name for node in after.graph.node if node.op_type == "MatMul"]
    assert products == ["layer.q+layer.k+layer.v", "layer.out", "layer.shared"]
    weights = {tensor.name for tensor in after.graph.initializer if tensor.name.startswith("W")}
    assert weights == {"Wshared", "Wout", "Wq+Wk+Wv", "Wq+Wk+Wv.sizes"}
    for got, expected in zip(run(after), run(before), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_without_a_cache_nothing_is_merged() -> None:
    before = model(cache=False)
    assert [node.name for node in merged(before).graph.node] == [node.name for node in before.graph.node]


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_a_column_keeps_its_scales(name: str) -> None:
    results = [
        run(onnx_file.quantized(proto, dict.fromkeys(set(onnx_file.layers(proto)) - {"layer.row"}, kind(ORT, name))))
        for proto in (model(), merged(model()))
    ]
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
