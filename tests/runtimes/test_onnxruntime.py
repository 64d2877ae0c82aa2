"""What only ONNX Runtime has: providers that fail to start, and types that numpy lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import RuntimeMissingError, RuntimeRunError
from edgeattn.runtimes.base import LoadOptions
from edgeattn.runtimes.onnxruntime import _DEVICES, OnnxRuntime
from edgeattn.runtimes.vendor import import_onnxruntime


def identity(path: Path, dtype: int) -> Path:
    values = [helper.make_tensor_value_info(name, dtype, ["N"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_fall_back_of_onnxruntime_itself_is_caught(tmp_path: Path) -> None:
    """Past the check of devices, as where a build has the provider but the driver is missing: it would run on the CPU."""
    runtime = OnnxRuntime()
    if "cuda" in runtime.devices():
        pytest.skip("the provider is here and may well start")
    path = identity(tmp_path / "m.onnx", TensorProto.FLOAT)
    with pytest.raises(RuntimeMissingError, match=r"could not start CUDAExecutionProvider .*'cuda'"):
        runtime._load(path, LoadOptions(device="cuda"))


@pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.BFLOAT16])
def test_types_without_a_numpy_twin(tmp_path: Path, dtype: int) -> None:
    path = identity(tmp_path / "m.onnx", dtype)
    with pytest.raises(RuntimeRunError, match=r"(which numpy cannot hold|failed to load)"):
        OnnxRuntime().load(path)


def test_nodes_are_counted_by_provider(tmp_path: Path) -> None:
    details = OnnxRuntime().load(identity(tmp_path / "m.onnx", TensorProto.FLOAT)).effective.details
    assert details["providers"] == "CPUExecutionProvider"
    assert details.get("nodes", "1 on CPUExecutionProvider") == "1 on CPUExecutionProvider"


def test_slow_fusion_is_off(tmp_path: Path) -> None:
    """The name in our table is still that of an optimization which fuses Add and LayerNormalization."""
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", "S", 8]) for n in ("x", "skip", "y")}
    weights = [numpy_helper.from_array(np.full(8, value, np.float32), name) for name, value in (("scale", 2), ("bias", 1))]
    nodes = [
        helper.make_node("Add", ["x", "skip"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale", "bias"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(nodes, "g", [values["x"], values["skip"]], [values["y"]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert _optimized(model, tmp_path / "all.onnx", ()) == ["SkipLayerNormalization"]
    assert _optimized(model, tmp_path / "ours.onnx", _DEVICES["cpu"].disabled) == ["Add", "LayerNormalization"]


def _optimized(model: onnx.ModelProto, path: Path, disabled: Sequence[str]) -> list[str]:
    """The operators that ONNX Runtime makes of `model`."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return [node.op_type for node in onnx.load(path).graph.node]
