"""The installed command in a process of its own: exit codes, streams, start-up, and being interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = dict[str, Callable[..., Any]]


def edgeattn(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeattn", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_exit_codes_of_the_process(tiny: Path, make: Make) -> None:
    assert edgeattn("check", tiny, "-r", "onnxruntime:cpu").returncode == 0
    assert edgeattn("check", tiny, "-r", "onnxruntime:qnn").returncode == 3
    make["scale_weight"](tiny, 10)
    refused = edgeattn("check", tiny)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1
    make["reseal"](tiny)
    failed = edgeattn("bench", tiny, "--repeats", 2)
    assert failed.returncode == 1
    assert "not timed" in failed.stdout


def test_progress_is_plain_on_a_pipe(tiny: Path) -> None:
    done = edgeattn("check", tiny, "-r", "onnxruntime:cpu", "--json")
    assert done.stdout.startswith("{")
    assert "\x1b" not in done.stderr


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from edgeattn.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m in ('numpy', 'onnxruntime', 'torch', 'rich', 'edgeattn.cli.check')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Example:" in done.stdout


def test_a_reader_that_leaves_is_no_error(tiny: Path) -> None:
    command = f"{sys.executable} -m edgeattn inspect {tiny} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_control_c_ends_without_a_traceback(tiny: Path) -> None:
    command = [sys.executable, "-m", "edgeattn", "bench", str(tiny), "-r", "onnxruntime:cpu", "--repeats", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "timing" not in process.stderr.readline():
            assert process.poll() is None
        for _ in range(3):  # Python drops one that falls into a finalizer; people press again
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            try:
                _, error = process.communicate(timeout=15)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            process.kill()
            pytest.fail("it goes on after three interrupts")
    assert process.returncode not in (0, None)
    assert "Traceback" not in error
