"""Runtimes by name, and plug-ins that are wrong: real installed metadata on sys.path, no doubles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeattn.errors import EdgeAttnError, RuntimeMissingError, UsageError
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(entry point, module text): a distribution in a folder of its own, as an installer would leave it."""

    def put(point: str, text: str) -> None:
        info = tmp_path / "plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[edgeattn.runtimes]\n{point}\n")
        (tmp_path / "registry_test_plugin.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    registry.get.cache_clear()
    yield put
    sys.modules.pop("registry_test_plugin", None)
    registry.get.cache_clear()


def test_built_in_names_come_first() -> None:
    assert registry.names()[:3] == ("onnxruntime", "openvino", "reference")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference"])
def test_get(name: str) -> None:
    runtime = registry.get(name)
    assert isinstance(runtime, Runtime)
    assert runtime.name == name
    assert registry.get(name) is runtime


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ("onnxruntim", r"unknown runtime 'onnxruntim'; did you mean 'onnxruntime'"),
        ("openvno", r"unknown runtime 'openvno'; did you mean 'openvino'\?"),
        ("zzz", r"unknown runtime 'zzz'; known: .*onnxruntime, openvino, reference"),
    ],
)
def test_unknown_name(got: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.get(got)


@pytest.mark.parametrize(("target", "device"), [("openvino", "cpu"), ("openvino:", "cpu"), ("openvino:npu", "npu")])
def test_target(target: str, device: str) -> None:
    assert registry.parse_target(target) == (registry.get("openvino"), device)


def test_unknown_device_of_a_target() -> None:
    with pytest.raises(UsageError, match=r"unknown device of runtime 'onnxruntime' 'cuda0'; did you mean 'cuda' or"):
        registry.parse_target("onnxruntime:cuda0")


@pytest.mark.parametrize(
    ("point", "text", "kind", "message"),
    [
        ("mine = registry_test_plugin:Mine", "import no_such_engine", RuntimeMissingError, r"fails to import: No module named"),
        (
            "mine = registry_test_plugin:Mine",
            "",
            RuntimeMissingError,
            r"\(registry_test_plugin:Mine\) fails to import: .*'Mine'",
        ),
        (
            "mine = registry_test_plugin:Mine",
            "Mine = dict",
            UsageError,
            r"is not a subclass of edgeattn\.runtimes\.base\.Runtime",
        ),
        (
            "mine = registry_test_plugin:Mine",
            "from edgeattn.runtimes.base import Runtime\nclass Mine(Runtime): name = 'mine'",
            RuntimeMissingError,
            r"runtime 'mine' .* cannot be created: .*abstract",
        ),
        (
            "mine = registry_test_plugin:Mine",
            "from edgeattn.runtimes.reference import Reference as Mine",
            UsageError,
            r"is registered as runtime 'mine' but calls itself 'reference'",
        ),
    ],
)
def test_broken_plugin(install: Install, point: str, text: str, kind: type[EdgeAttnError], message: str) -> None:
    install(point, text)
    assert "mine" in registry.names()
    with pytest.raises(kind, match=message):
        registry.get("mine")
    assert registry.get("reference").name == "reference"  # the others still work


def test_plugin_cannot_replace_a_built_in(install: Install) -> None:
    install("openvino = registry_test_plugin:Mine", "raise RuntimeError('imported')")
    assert registry.names().count("openvino") == 1
    assert type(registry.get("openvino")).__module__ == "edgeattn.runtimes.openvino"


def test_naming_runtimes_imports_none_of_them() -> None:
    code = (
        "import sys; from edgeattn.runtimes import registry;"
        "[registry.get(name).known_devices for name in ('onnxruntime', 'openvino', 'reference')];"
        "print(*sorted({'onnx', 'onnxruntime', 'openvino', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
