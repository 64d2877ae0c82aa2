"""The example plug-in: installed for real, found by its entry point, held to the contract of the built-in runtimes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
NAME = "onnxruntime-unoptimized"

SCRIPT = """
import json, sys
import numpy as np
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions

runtime, device = registry.parse_target("onnxruntime-unoptimized")
x = np.arange(6, dtype=np.float32).reshape(2, 3)
with runtime.load(sys.argv[1], LoadOptions(device=device, threads=1)) as session:
    y = session.run({"x": x})["y"]
    print(json.dumps({
        "names": registry.names(),
        "right": bool((y == x * x).all()),
        "summary": session.effective.summary(),
        "details": dict(session.effective.details),
    }))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the plug-in is installed, and the user's own is left alone."""
    work = tmp_path_factory.mktemp("plugin")
    # setuptools writes into the source tree it builds
    source = shutil.copytree(ROOT / "examples" / "runtime_plugin", work / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _run([*command, "--target", str(work / "site"), str(source)], dict(os.environ))
    return {**os.environ, "PYTHONPATH": str(work / "site")}


def test_found_and_run(environment: dict[str, str], tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "square", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")

    said = json.loads(_run([sys.executable, "-c", SCRIPT, str(tmp_path / "m.onnx")], environment))

    assert said["names"][:3] == ["onnxruntime", "openvino", "reference"]
    assert NAME in said["names"][3:]
    assert said["right"]
    assert said["summary"].startswith(NAME)
    assert "cpu, 1 thread, fp32" in said["summary"]
    assert said["details"] == {"graph optimizations": "ORT_DISABLE_ALL"}


def test_passes_the_contract(environment: dict[str, str]) -> None:
    output = _run(_contract("--runtime", NAME), environment)
    assert " passed" in output
    assert "failed" not in output


def test_a_skip_that_is_not_needed_fails(environment: dict[str, str]) -> None:
    asked = _contract("--runtime", NAME, "--skip", "test_inputs: not needed", "-k", "test_inputs")
    done = subprocess.run(asked, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "[XPASS(strict)] not needed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", NAME, "--skip", "test_inptus: slip"), "a skip names no test of the contract"),
        (("--runtime", NAME, "--device", "cuda"), f"unknown device of runtime '{NAME}' 'cuda'"),
        (("--runtime", "onnxruntime-unoptimised"), f"did you mean '{NAME}'"),
    ],
)
def test_wrong_use_of_the_contract(environment: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    asked = _contract(*arguments)
    done = subprocess.run(asked, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def _contract(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "tests/contract", "-q", "-p", "no:cacheprovider", *arguments]


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
