"""Who imports whom: the contracts in pyproject.toml, and what really gets imported in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "edgeattn": "edgeattn",
    "exporters": "edgeattn.exporters",
    "models": "edgeattn.models",
    "runtimes": "edgeattn.runtimes",
}
HEAVY = ("click", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "rich", "torch", "transformers")


def test_contracts_hold() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "pyproject.toml")], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_see_every_module() -> None:
    """The siblings are reached through links; a tool that did not follow them would pass by seeing nothing."""
    seen = grimp.build_graph("edgeattn", cache_dir=None).modules
    files = {
        _module(package, path.relative_to(ROOT / folder)) for folder, package in FOLDERS.items() for path in _sources(folder)
    }
    assert files == seen


@pytest.mark.parametrize("module", ["edgeattn", "edgeattn.loading", "edgeattn.runtimes.registry", "edgeattn.cli"])
def test_imports_nothing_heavy(module: str) -> None:
    """What a device, or `--help`, has to load: neither PyTorch nor a runtime before one is asked for."""
    allowed = {"click"} if module == "edgeattn.cli" else set()
    code = f"import sys, {module}; print(*sorted({set(HEAVY) - allowed!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def _sources(folder: str) -> list[Path]:
    """The Python files that are really in `folder`: links are left to the folder they lead to."""
    return [path for path in (ROOT / folder).rglob("*.py") if path.resolve() == path]


def _module(package: str, path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
