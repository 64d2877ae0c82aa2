"""What the writer of ONNX files does to weights that are shared, too large, or beside infinities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeattn.exporters.quantize import onnx_file, onnx_io
from edgeattn.exporters.quantize.kinds import ORT, kind, kinds_for

Array = NDArray[Any]
ROWS, WIDTH = 96, 64


def run(model: onnx.ModelProto, tokens: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"tokens": tokens})[0])


SAMPLES = [{"tokens": np.arange(ROWS)}]


def saved(folder: Path, table: Array, tied: bool = True, masked: bool = False) -> Path:
    """logits = embedding[tokens] @ embedding.T, as tied language models have it; or by weights of its own. With a mask, the
    first logit of each token is -inf."""
    node = helper.make_node
    nodes = [node("Gather", ["table", "tokens"], ["hidden"], "embed")]
    tensors = [numpy_helper.from_array(table, "table")]
    if tied:
        nodes.append(node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]))
    else:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(table.T), "turned"))
    nodes.append(node("MatMul", ["hidden", "turned"], ["raw"], "head"))
    if masked:
        never = np.zeros(len(table), np.float32)
        never[0] = -np.inf
        tensors.append(numpy_helper.from_array(never, "never"))
    nodes.append(node("Add", ["raw", "never"], ["logits"], "mask") if masked else node("Identity", ["raw"], ["logits"], "same"))
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["s"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["s", len(table)])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx_io.write(model, folder / "tied.onnx", "tied.bin")
    return folder / "tied.onnx"


@pytest.fixture
def table() -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def test_a_tied_product_gets_weights_of_its_own(table: Array, tmp_path: Path) -> None:
    model = onnx_file.read(saved(tmp_path, table))
    layers = onnx_file.layers(model)
    assert {name: layer.weight for name, layer in layers.items()} == {"embed": "table", "head": "table.T"}
    assert [node.op_type for node in model.graph.node] == ["Gather", "MatMul", "Identity"]
    tokens = np.arange(ROWS)
    np.testing.assert_allclose(run(model, tokens), table @ table.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [each.name for each in kinds_for(ORT)])
def test_a_tied_product_alone(table: Array, name: str, tmp_path: Path) -> None:
    """The embedding is left exact, and the model still finds each token to be its own."""
    model = onnx_file.quantized(onnx_file.read(saved(tmp_path, table)), {"head": kind(ORT, name)}, SAMPLES)
    (kept,) = [tensor for tensor in model.graph.initializer if tensor.name == "table"]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), table)
    assert (run(model, np.arange(ROWS)).argmax(axis=1) == np.arange(ROWS)).all()


def test_writing_changes_no_model_in_memory(table: Array, tmp_path: Path) -> None:
    model = onnx_file.read(saved(tmp_path, table))
    before = model.SerializeToString()
    for each in kinds_for(ORT):
        onnx_file.quantized(model, dict.fromkeys(onnx_file.layers(model), each), SAMPLES)
        assert model.SerializeToString() == before, each.name


def test_weights_that_float16_cannot_hold_stay_as_they_are(table: Array, tmp_path: Path) -> None:
    table[3, 5] = 70000.0
    model = onnx_file.read(saved(tmp_path, table, tied=False))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(table.T) / 2, "turned"))
    halves = onnx_file.quantized(model, dict.fromkeys(onnx_file.layers(model), kind(ORT, "fp16")))
    types = {tensor.name: tensor.data_type for tensor in halves.graph.initializer}
    assert types == {"table": TensorProto.FLOAT, "turned.half": TensorProto.FLOAT16}
    got, expected = run(halves, np.arange(ROWS)), run(model, np.arange(ROWS))
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= 2e-3 * np.abs(expected).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("name", [each.name for each in kinds_for(ORT)])
def test_infinities_and_large_activations(table: Array, name: str, tmp_path: Path) -> None:
    """Products of 1e5 and more, beyond float16, and a mask of -inf behind them."""
    table *= 1000.0
    model = onnx_file.read(saved(tmp_path, table, masked=True))
    quantized = onnx_file.quantized(model, dict.fromkeys(onnx_file.layers(model), kind(ORT, name)), SAMPLES)
    got = run(quantized, np.arange(ROWS))
    assert np.abs(got[:, 1:]).max() > 1e7
    assert np.isneginf(got[:, 0]).all()
    assert np.isfinite(got[:, 1:]).all()


def test_a_row_of_zeros_stays_one(table: Array, tmp_path: Path) -> None:
    """The row of padding, in many models."""
    table[7] = 0.0
    model = onnx_file.quantized(onnx_file.read(saved(tmp_path, table)), {"embed": kind(ORT, "int8")})
    assert (run(model, np.array([7])) == 0).all()


def test_who_may_read_the_model_may_read_its_numbers(table: Array, tmp_path: Path) -> None:
    path = saved(tmp_path, table)
    assert (tmp_path / "tied.bin").stat().st_mode == path.stat().st_mode
