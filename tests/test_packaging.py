"""Four folders, one import package: what is declared, linked and built is `edgeattn` and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIBLINGS = ("exporters", "models", "runtimes")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no stale `build/` gets into it and none is left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("edgeattn", *SIBLINGS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_declared_packages_are_the_tree(project: dict[str, Any]) -> None:
    found = {
        _package(path.parent) for folder in ("edgeattn", *SIBLINGS) for path in _sources(folder) if path.name == "__init__.py"
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("edgeattn", *SIBLINGS):
        for path in _sources(folder):
            assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize("name", SIBLINGS)
def test_link_leads_to_its_folder(name: str) -> None:
    link = ROOT / "edgeattn" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.samefile(ROOT / name)


def test_wheel_holds_edgeattn_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgeattn"}


def test_wheel_holds_every_source(wheel: Path) -> None:
    expected = {
        f"{_package(path.parent).replace('.', '/')}/{path.name}"
        for folder in ("edgeattn", *SIBLINGS)
        for path in _sources(folder)
    }
    with zipfile.ZipFile(wheel) as archive:
        code = {name for name in archive.namelist() if name.startswith("edgeattn/")}
    assert code == expected | {"edgeattn/py.typed"}


@pytest.mark.parametrize("name", SIBLINGS)
def test_siblings_are_not_importable_by_their_bare_names(installed: Path, tmp_path: Path, name: str) -> None:
    result = _isolated(installed, tmp_path, f"import {name}")
    assert f"No module named '{name}'" in result.stderr


@pytest.mark.parametrize("module", ["edgeattn", "edgeattn.runtimes", "edgeattn.exporters.lowerings"])
def test_installed_wheel_imports(installed: Path, tmp_path: Path, module: str) -> None:
    result = _isolated(installed, tmp_path, f"import {module}; print({module}.__file__)")
    assert result.stdout.startswith(str(installed)), result.stderr


@pytest.mark.parametrize("name", SIBLINGS)
def test_folder_refuses_another_name(tmp_path: Path, name: str) -> None:
    """At the repository's root the folder itself is on the path; a second copy of a class would break isinstance."""
    result = _isolated(ROOT, tmp_path, f"import {name}")
    assert f"import edgeattn.{name}" in result.stderr


def _isolated(folder: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with the standard library, `folder` and the dependencies, without what site-packages adds (an editable edgeattn)."""
    paths = [str(folder), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    start = f"import sys; sys.path[:0] = {paths!r}; {code}"
    return subprocess.run([sys.executable, "-I", "-S", "-c", start], check=False, capture_output=True, text=True, cwd=cwd)


def _sources(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*.py") if path.resolve() == path]


def _package(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "edgeattn" else ("edgeattn", *parts))
