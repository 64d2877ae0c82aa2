"""`custom_ops` of check, bench, load and the command line: to which runtime a library goes, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edgeattn
from edgeattn.cli import cli
from edgeattn.errors import UsageError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file that is no library: a runtime that is handed it says so."""
    path = tmp_path / "text.so"
    path.write_text("no library")
    return path


def test_a_library_goes_to_the_runtime_that_takes_it(tiny: Path, text: Path) -> None:
    """Of all targets of a bundle; the others are checked without it."""
    report = edgeattn.check(tiny, custom_ops=[text])
    assert [(target.target, target.status) for target in report.targets] == [
        ("onnxruntime:cpu", "error"),
        ("openvino:cpu", "passed"),
    ]
    assert f"failed to load the library {text}" in report.targets[0].reason


@pytest.mark.parametrize("command", [edgeattn.check, edgeattn.bench])
def test_refused_before_any_work(command: Callable[..., object], tiny: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"text\.so: none of openvino:cpu takes native libraries; add -r onnxruntime:cpu"):
        command(tiny, ["openvino:cpu"], custom_ops=[text])
    with pytest.raises(UsageError, match=r"there is no library '.*missing\.so'"):
        command(tiny, custom_ops=[tmp_path / "missing.so"])
    with pytest.raises(UsageError, match=r"custom_ops is a list of files, got 'text\.so'; write \['text\.so'\]"):
        command(tiny, custom_ops="text.so")


def test_load_hands_its_options_on(tiny: Path, text: Path) -> None:
    with pytest.raises(UsageError, match="runtime 'openvino' takes no custom_ops"):
        edgeattn.load(tiny, runtime="openvino", custom_ops=[text])
    with pytest.raises(UsageError, match="runtime 'onnxruntime' takes no extensions"):
        edgeattn.load(tiny, extensions=[object()])


@pytest.mark.parametrize("words", [["check"], ["bench"], ["run", "--input", "x.npz"]])
def test_command_line(words: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", input_ids=np.ones((1, 3), np.int64), attention_mask=np.ones((1, 3), np.int64))
    result = CliRunner().invoke(cli, [words[0], str(tiny), *words[1:], "--custom-ops", "missing.so"])
    assert (result.exit_code, "there is no library 'missing.so'" in result.output) == (2, True), result.output
