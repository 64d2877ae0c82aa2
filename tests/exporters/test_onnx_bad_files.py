"""Files that cannot be used: each is refused with what is wrong and what to do, before anything is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgeattn.cli.group import cli
from edgeattn.errors import SourceError
from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.sources.onnx_file import from_onnx


def model(op: str = "Relu", domain: str = "", opset: int = 18, inputs: dict[str, list[Any]] | None = None) -> onnx.ModelProto:
    """A model of one operator on its first input."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (inputs or {"x": ["b", 4]}).items()]
    node = helper.make_node(op, [values[0].name], ["y"], domain=domain)
    graph = helper.make_graph(
        [node],
        "g",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, next(iter((inputs or {"x": ["b", 4]}).values())))],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def external(folder: Path, location: str, length: int = 16) -> Path:
    """A model whose weight says that it lies at `location`."""
    proto = model("Relu")
    proto.graph.node[0].op_type = "Add"
    proto.graph.node[0].input.append("w")
    weight = numpy_helper.from_array(np.ones(4, dtype=np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    proto.graph.initializer.append(weight)
    return saved(proto, folder)


def outside(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(bytes(64))
    (folder / "inner").mkdir()
    return external(folder / "inner", "../secret.bin")


def linked(folder: Path) -> Path:
    """A link in the file's own folder that leads out of it."""
    (folder / "secret.bin").write_bytes(bytes(64))
    (folder / "inner").mkdir()
    (folder / "inner" / "w.bin").symlink_to(folder / "secret.bin")
    return external(folder / "inner", "w.bin")


def short(folder: Path) -> Path:
    (folder / "w.bin").write_bytes(bytes(8))
    return external(folder, "w.bin")


def pickled(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(pickle.dumps({"weights": [1.0] * 100}))
    return path


def torch_file(folder: Path) -> Path:
    path = folder / "model.onnx"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    return path


def invalid(folder: Path) -> Path:
    proto = model()
    proto.graph.node[0].input[0] = "nothing"
    return saved(proto, folder)


def cached(folder: Path) -> Path:
    shape = ["b", 2, "past", 4]
    return saved(model(inputs={"x": ["b", 4], **{f"past_key_values.{i}.key": shape for i in range(5)}}), folder)


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "model.onnx", "no file .*model.onnx; give the path of a .onnx file"),
    "empty": (lambda f: saved(onnx.ModelProto(), f), "is not an ONNX file: it names no operator set or no output"),
    "pickle": (pickled, "is not an ONNX file"),
    "a state dict": (torch_file, "is not an ONNX file"),
    "checker": (invalid, "is no valid ONNX model: .*nothing"),
    "outside": (outside, r"the weights of 'w' lie at \.\./secret.bin, outside the file's folder; put them beside the file"),
    "absolute": (lambda f: external(f, "/etc/passwd"), "the weights of 'w' lie at /etc/passwd, outside the file's folder"),
    "a link that leads outside": (linked, "the weights of 'w' lie at w.bin, outside the file's folder"),
    "weights missing": (
        lambda f: external(f, "w.bin"),
        "the weights of 'w' lie in w.bin, which is not there; copy it beside the file",
    ),
    "weights cut short": (short, "the weights of 'w' end at byte 16 of w.bin, which has 8; copy it again"),
    "too new": (lambda f: saved(model(opset=26), f), "is written in opset 26; understood are 7 to 25: export it again"),
    "foreign operators": (
        lambda f: saved(model("Frobnicate", "com.acme"), f),
        r"has operators that cannot be written in the standard's: com.acme::Frobnicate \(1 time\)\. Give the file as it was before",
    ),
    "an unknown operator of ONNX Runtime": (
        lambda f: saved(model("QAttention", "com.microsoft"), f),
        r"com.microsoft::QAttention \(1 time\); of com.microsoft, what ONNX Runtime's optimizer writes around attention is understood",
    ),
    "a cache": (
        cached,
        r"has a key/value cache among its inputs \(past_key_values.0.key, .* and 2 more\); decoder caches are not supported yet",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_refused_by_what_is_wrong(case: str, tmp_path: Path) -> None:
    make, reason = CASES[case]
    with pytest.raises(SourceError, match=reason):
        from_onnx(make(tmp_path))


def test_an_operator_that_opset_18_does_not_have_is_named(tmp_path: Path) -> None:
    proto = model("GroupNormalization", opset=21, inputs={"x": ["b", 4, 3], "s": [4], "t": [4]})
    proto.graph.node[0].input.extend(["s", "t"])
    proto.graph.node[0].attribute.append(helper.make_attribute("num_groups", 2))
    source = from_onnx(saved(proto, tmp_path))
    assert source.graph is not None
    with pytest.raises(RaisingError, match="GroupNormalization of opset 21 cannot be written in opset 18"):
        source.graph(["y"])


@pytest.mark.parametrize("command", ["export", "inspect"])
def test_the_command_line_ends_with_2_and_no_traceback(command: str, tmp_path: Path) -> None:
    arguments = [command, str(outside(tmp_path)), *(["-o", str(tmp_path / "out")] if command == "export" else [])]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "outside the file's folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
