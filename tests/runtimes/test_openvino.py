"""What only OpenVINO has: inputs that it renames, canonical files that it refuses, hints that it must keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.naive import softmax_attention
from edgeattn.parity import compare_arrays
from edgeattn.runtimes.base import LoadOptions
from edgeattn.runtimes.openvino import OpenVINO
from edgeattn.spec import SoftmaxAttention


def attention(path: Path) -> Path:
    """q, k, v (B, 2, S, 8) -> y, and the new keys and values, which are k and v under other names."""
    values = {
        n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 2, "S", 8]) for n in ("q", "k", "v", "y", "pk", "pv")
    }
    node = helper.make_node("Attention", ["q", "k", "v"], ["y", "pk", "pv"])
    graph = helper.make_graph([node], "g", [values[n] for n in "qkv"], [values[n] for n in ("y", "pk", "pv")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), path)
    return path


def test_renamed_inputs_keep_the_names_of_the_file(tmp_path: Path) -> None:
    path = attention(tmp_path / "m.onnx")
    given = [port.get_names() for port in openvino.Core().read_model(path).inputs]
    assert given != [{"q"}, {"k"}, {"v"}], "OpenVINO no longer renames: this test and _match may go"

    session = OpenVINO().load(path)
    assert session.inputs == tuple(TensorInfo(name, "float32", ("B", 2, "S", 8)) for name in "qkv")
    assert [info.name for info in session.outputs] == ["y", "pk", "pv"]
    feeds = {name: np.random.default_rng(ord(name)).standard_normal((3, 2, 5, 8), dtype=np.float32) for name in "vkq"}
    result = session.run(feeds)
    np.testing.assert_array_equal(result["pk"], feeds["k"])
    np.testing.assert_array_equal(result["pv"], feeds["v"])
    expected = softmax_attention(feeds["q"], feeds["k"], feeds["v"], SoftmaxAttention(2, 2, 8)).astype(np.float32)
    comparison = compare_arrays("y", result["y"], expected, "attention")
    assert comparison.passed, comparison


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_nothing_is_quantized_behind_the_users_back(tmp_path: Path, device: str) -> None:
    effective = OpenVINO().load(attention(tmp_path / "m.onnx"), LoadOptions(device=device)).effective
    if effective.details["devices"] != "CPU":
        pytest.skip("the settings of another device are its own")
    assert (effective.precision, effective.kv_precision) == ("fp32", "fp32")
    assert effective.details["execution mode"] == "accuracy"
    assert effective.details["dynamic quantization group"] == "0"


def test_arrays_that_may_not_be_written(tmp_path: Path) -> None:
    feeds = {name: np.random.default_rng(ord(name)).standard_normal((1, 2, 3, 8), dtype=np.float32) for name in "qkv"}
    session = OpenVINO().load(attention(tmp_path / "m.onnx"))
    expected = session.run(feeds)
    for array in feeds.values():
        array.flags.writeable = False
    for name, array in session.run(feeds).items():
        np.testing.assert_array_equal(array, expected[name])


def test_canonical_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgeattn", 1)]
    body = helper.make_function("edgeattn", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], opsets[:1])
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="edgeattn")], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(RuntimeRunError, match=r"canonical form .* load the flavour that was exported for openvino"):
        OpenVINO().load(tmp_path / "m.onnx")


def test_own_format(tmp_path: Path) -> None:
    """OpenVINO's own IR has no names for dynamic dimensions."""
    openvino.save_model(openvino.Core().read_model(attention(tmp_path / "m.onnx")), tmp_path / "m.xml", compress_to_fp16=False)
    session = OpenVINO().load(tmp_path / "m.xml")
    assert [len(info.dims) for info in session.inputs] == [4, 4, 4]
    x = np.ones((1, 2, 3, 8), np.float32)
    result = session.run({info.name: x for info in session.inputs})
    assert [value.shape for value in result.values()] == [(1, 2, 3, 8)] * 3
