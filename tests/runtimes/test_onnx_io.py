"""The reader of inputs and outputs, against the onnx package, and against damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.onnx_io import read_io

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
    **{f"{sign}int{bits}": getattr(TensorProto, f"{sign}int{bits}".upper()) for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def save(path: Path, inputs: list[Any], outputs: list[Any], weights: dict[str, Any] | None = None) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph([], "g", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("dtype", TYPES)
def test_types(tmp_path: Path, dtype: str) -> None:
    value = helper.make_tensor_value_info("größe", TYPES[dtype], ["B", 3, None, 1 << 40])
    inputs, outputs = read_io(save(tmp_path / "m.onnx", [value], [value]))
    assert inputs == outputs == [TensorInfo("größe", dtype, ("B", 3, "größe_2", 1 << 40))]


def test_weights_named_as_inputs_are_left_out(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "w", "y")]
    path = save(tmp_path / "m.onnx", values, [], {"w": np.zeros(2, np.float32)})
    assert [info.name for info in read_io(path)[0]] == ["x", "y"]


def test_value_without_a_shape(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    assert read_io(save(tmp_path / "m.onnx", [], [value]))[1] == [TensorInfo("x", "float32", ())]


@pytest.mark.parametrize("kind", ["sequence", "string", "bfloat16"])
def test_what_numpy_cannot_hold_is_refused(tmp_path: Path, kind: str) -> None:
    values = {
        "sequence": helper.make_tensor_sequence_value_info("odd", TensorProto.FLOAT, [2]),
        "string": helper.make_tensor_value_info("odd", TensorProto.STRING, [2]),
        "bfloat16": helper.make_tensor_value_info("odd", TensorProto.BFLOAT16, [2]),
    }
    with pytest.raises(RuntimeRunError, match=r"m\.onnx: 'odd' is no tensor that numpy can hold"):
        read_io(save(tmp_path / "m.onnx", [values[kind]], []))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(data)
    try:
        read_io(path)
    except RuntimeRunError as error:
        assert "noise.onnx" in str(error)  # noqa: PT017 - an answer is as good


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_one_changed_byte(tmp_path: Path, data: st.DataObject) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])
    path = save(tmp_path / "m.onnx", [value], [value], {"w": np.zeros(2, np.float32)})
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_io(path)
    except RuntimeRunError as error:
        assert "m.onnx" in str(error)  # noqa: PT017 - an answer is as good
