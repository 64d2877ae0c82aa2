"""Loading: what a session says of its inputs and outputs, and which files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.errors import RuntimeRunError, UsageError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Runtime, Session

ModelPath = Callable[[str], Path]
Load = Callable[..., Session]


def test_inputs(load: Load) -> None:
    assert load("softmax").inputs == (TensorInfo("x", "float32", ("B", "S", 8)),)
    assert load("ids").inputs == (TensorInfo("ids", "int64", ("B", "S")), TensorInfo("mask", "int64", ("B", "S")))


def test_scalar_input(load: Load) -> None:
    assert load("passthrough").inputs == (TensorInfo("x", "float32", ("B", 8)), TensorInfo("scale", "float32", ()))


def test_unnamed_dimension_gets_a_name(load: Load) -> None:
    expected = (
        TensorInfo("flag", "bool", ("B",)),
        TensorInfo("count", "int32", ("B",)),
        TensorInfo("half", "float16", ("B", "half_1")),
    )
    assert load("dtypes").inputs == expected


def test_outputs_keep_the_order_of_the_model(load: Load) -> None:
    expected = (
        TensorInfo("twice", "float32", ("B", 8)),
        TensorInfo("best", "int64", ("B",)),
        TensorInfo("square", "float32", ("B", 8)),
    )
    assert load("outputs").outputs == expected


def test_path_as_text(runtime: Runtime, device: str, model_path: ModelPath) -> None:
    if device != "cpu":
        pytest.skip("the default device is cpu")
    with runtime.load(str(model_path("softmax"))) as session:
        assert session.effective.device == "cpu"


def test_missing_file(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no model file '.*gone\.onnx'"):
        load(tmp_path / "gone.onnx")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_model(load: Load, model_path: ModelPath, tmp_path: Path, runtime: Runtime, share: float) -> None:
    data = model_path("softmax").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RuntimeRunError, match=rf"^{runtime.name} failed to load cut\.onnx: .+"):
        load(cut)


def test_text_instead_of_a_model(load: Load, tmp_path: Path, runtime: Runtime) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("<!DOCTYPE html><html>404: not found</html>")
    with pytest.raises(RuntimeRunError, match=rf"^{runtime.name} failed to load text\.onnx: .+"):
        load(text)


def test_unknown_operator(load: Load, runtime: Runtime) -> None:
    with pytest.raises(RuntimeRunError, match=rf"^{runtime.name} failed to load unknown_operator\.onnx: .*(nowhere|Nothing)"):
        load("unknown_operator")


def test_missing_external_data(load: Load, model_path: ModelPath, tmp_path: Path, runtime: Runtime) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(model_path("external").read_bytes())
    with pytest.raises(RuntimeRunError, match=rf"^{runtime.name} failed to (load|compile) alone\.onnx"):
        load(alone)


def test_canonical_attention_is_run_or_refused(load: Load, runtime: Runtime) -> None:
    """A runtime for canonical models must run one; any other may refuse it, by name, but must not get it wrong."""
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    try:
        session = load("canonical")
    except RuntimeRunError as error:
        refusal = str(error)
    else:
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)
        return
    assert not runtime.canonical
    assert "edgeattn" in refusal


@pytest.mark.parametrize("absolute", [False, True])
def test_weights_outside_the_models_folder_are_refused(
    load: Load, model_path: ModelPath, tmp_path: Path, absolute: bool
) -> None:
    """A hostile file must not make a runtime read elsewhere on the device."""
    folder = tmp_path / "model"
    folder.mkdir()
    outside = tmp_path / "w.bin"
    outside.write_bytes((model_path("external").parent / "w.bin").read_bytes())
    model = onnx.load(model_path("external"), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = (
            str(outside) if absolute else "../w.bin"
        )
    (folder / "hostile.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RuntimeRunError, match="load"):
        load(folder / "hostile.onnx")
