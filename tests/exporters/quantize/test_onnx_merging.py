"""Products of one input as one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeattn.exporters.quantize import onnx_file
from edgeattn.exporters.quantize.kinds import ORT, kind
from edgeattn.exporters.quantize.onnx_merging import merge_products

WIDTHS = {"q": 128, "k": 64, "v": 64}


def model() -> onnx.ModelProto:
    """x -> q, k, v; z = q out; and a product whose weights something else reads too."""
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
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(proto: onnx.ModelProto) -> list[np.ndarray]:
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 3, 64)).astype(np.float32), "row": np.array([2])}
    found: list[np.ndarray] = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )
    return found


def test_those_of_one_input_are_one_and_the_others_stay() -> None:
    proto = model()
    before = run(proto)
    merge_products(proto)
    assert [node.name for node in proto.graph.node if node.op_type == "MatMul"] == [
        "layer.q+layer.k+layer.v",
        "layer.out",
        "layer.shared",
    ]
    assert [tensor.name for tensor in proto.graph.initializer if tensor.name.startswith("W")] == ["Wshared", "Wout", "Wq+Wk+Wv"]
    for got, expected in zip(run(proto), before, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_a_column_keeps_its_scales(name: str) -> None:
    merged = model()
    merge_products(merged)
    results = [
        run(onnx_file.quantized(proto, dict.fromkeys(set(onnx_file.layers(proto)) - {"layer.row"}, kind(ORT, name))))
        for proto in (model(), merged)
    ]
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
