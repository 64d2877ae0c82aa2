"""Engines that are missing or broken explain themselves, and those that are there send nothing. Fresh processes throughout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import sys
sys.modules[{package!r}] = None  # what Python itself notes for a module that is not there
from edgeattn.errors import RuntimeMissingError
from edgeattn.runtimes import registry
runtime = registry.get({runtime!r})
print(runtime.check())
try:
    runtime.load("model.onnx")
except RuntimeMissingError as error:
    print(error)
"""


def python(code: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept | environment)
    return done.stdout


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [("onnxruntime", "onnxruntime", "onnxruntime"), ("openvino", "openvino", "openvino"), ("reference", "onnx", "export")],
)
def test_missing_package(runtime: str, package: str, extra: str) -> None:
    check, error = python(CHECK.format(runtime=runtime, package=package)).splitlines()
    assert check.startswith("Availability(ok=False")
    fix = f'pip install "edgeattn[{extra}]"'
    assert error == f"runtime '{runtime}' cannot be used here: {package} is not installed; fix: {fix}"


def test_broken_package(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise OSError('libopenvino.so: wrong ELF class')")
    code = "from edgeattn.runtimes import registry; print(registry.get('openvino').check().reason)"
    said = python(code, PYTHONPATH=str(tmp_path))
    assert said.strip() == "openvino fails to import: libopenvino.so: wrong ELF class"


def test_package_that_lacks_another(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("import no_such_library")
    code = "from edgeattn.runtimes import registry; print(registry.get('openvino').check().reason)"
    assert python(code, PYTHONPATH=str(tmp_path)).strip() == "openvino needs no_such_library"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_no_telemetry(runtime: str, tmp_path: Path) -> None:
    """Nothing is left in the home folder: both engines keep a client id there once their telemetry has started."""
    code = (
        f"import sys; from edgeattn.runtimes import registry; registry.get({runtime!r}).devices();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    assert python(code, HOME=str(tmp_path)).strip() == "[]"
    assert list(tmp_path.rglob("*")) == []


def test_no_telemetry_of_nncf(tmp_path: Path) -> None:
    """It sends an event for each model that it quantizes, from the moment it finds the client."""
    code = (
        "import sys; from edgeattn.runtimes.vendor import import_nncf; import_nncf(); from nncf.telemetry import telemetry;"
        "print(type(telemetry).__name__, [name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    assert python(code, HOME=str(tmp_path)).strip() == "MagicMock []"
    assert list(tmp_path.glob("intel*")) == []


def test_telemetry_that_the_user_wants_is_left_on() -> None:
    code = "from edgeattn.runtimes.vendor import import_onnxruntime as load; load(); import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert python(code).strip() == "1"
    assert python(code, ORT_DISABLE_TELEMETRY="0", CI="1").strip() == "0"
