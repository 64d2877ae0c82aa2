"""Write a bundle atomically: it appears whole, under its own name, or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgeattn import manifest as manifests
from edgeattn.bundle.folder import MANIFEST, digest
from edgeattn.errors import UsageError
from edgeattn.manifest import Manifest

_OLD = "-old"


@contextmanager
def writing(output: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes `output` when the block ends well, and vanishes when it does not.

    Raises:
        UsageError: `output` exists and `force` is False.
    """
    output = Path(os.path.abspath(output))
    parent = output.parent
    parent.mkdir(parents=True, exist_ok=True)
    sweep(output)
    check_output(output, force)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-{os.getpid()}-", dir=parent))
    try:
        yield work
        work.chmod(0o755)
        check_output(output, force)  # again: another export may have come first
        _replace(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_output(output: Path, force: bool) -> None:
    """Refuse an output that exists, before any long work. Raises UsageError."""
    if not (output.exists() or output.is_symlink()):
        return
    if not force:
        raise UsageError(f"{output} exists; choose another -o, or pass --force to replace it")
    if not (output / MANIFEST).is_file() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"{output} exists and is not a bundle; --force replaces bundles only")


def seal(folder: Path, manifest: Manifest, name: str = MANIFEST) -> Manifest:
    """Hash every file of `folder`, list it, and write the manifest `name`. Returns it as written."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / name)
    sealed = replace(manifest, files={name: digest(folder / name) for name in names})
    (folder / name).write_text(manifests.dumps(sealed))
    return sealed


def _replace(work: Path, output: Path) -> None:
    """Move `work` to `output`; an old bundle there stays until the new one is in place."""
    if not output.exists():
        work.rename(output)
        return
    old = work.with_name(work.name + _OLD)
    output.rename(old)
    try:
        work.rename(output)
    except OSError:
        old.rename(output)
        raise
    _remove(old)


def sweep(output: Path) -> None:
    """Remove what killed exports of the same output left behind; bring back a bundle that was being replaced."""
    prefix = f".{output.name}.partial-"
    for stale in output.parent.glob(f"{glob.escape(prefix)}*"):
        pid = stale.name.removeprefix(prefix).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            if stale.name.endswith(_OLD) and not output.exists():
                stale.rename(output)
            else:
                _remove(stale)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
