"""A bundle on disk: written atomically, opened only after its hashes, paths and sizes were checked.

A bundle is a folder, or the same folder zipped without compression as `NAME.edgeattn`:

    manifest.json  *.onnx  weights-<precision>.bin  golden/*.safetensors  probes/*.onnx  tokenizer/*
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgeattn import manifest as manifests
from edgeattn.errors import BundleError, UsageError
from edgeattn.manifest import FileEntry, Flavour, Manifest

MANIFEST = "manifest.json"
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "edgeattn"})
"""Operator domains a bundle may use. Anything else would need code that a bundle must not bring."""
_MAX_MANIFEST = 16 << 20
_MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, verified bundle: its folder and what its manifest says."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises BundleError for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: {name!r} is not listed in {MANIFEST}; the bundle is foreign or was edited")
        return self.path / name

    @property
    def size(self) -> int:
        """Bytes of all files the manifest lists."""
        return sum(entry.size for entry in self.manifest.files.values())

    def flavour_size(self, flavour: Flavour) -> int:
        """Bytes a device needs to run `flavour`: its graph and the weights that it shares."""
        weights = self.manifest.files.get(weights_name(flavour.precision))
        return self.manifest.files[flavour.file].size + (weights.size if weights else 0)


def weights_name(precision: str) -> str:
    """The weight file that all flavours of one precision share."""
    return f"weights-{precision}.bin"


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder or `.edgeattn` file; every listed file's size and SHA-256 are verified first.

    A zipped bundle is unpacked into the user's cache, under its own hash, since runtimes map weights from real files.

    Raises:
        BundleError: missing, truncated, edited, foreign, or with a path that leaves the bundle.
    """
    root = Path(path)
    if root.is_file():
        root = _unpack(root)
    text = _read_manifest(root)
    manifest = manifests.loads(text)
    if len(manifest.files) > _MAX_FILES:
        raise BundleError(f"{root}: {len(manifest.files)} files listed, at most {_MAX_FILES} are read")
    _check_references(root, manifest)
    for name, entry in manifest.files.items():
        _verify(root, name, entry)
    return Bundle(root, manifest)


@contextmanager
def writing(output: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes `output` when the block ends well, and vanishes when it does not.

    Raises:
        UsageError: `output` exists and `force` is False.
    """
    check_output(output, force)
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent, output.name)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-{os.getpid()}-", dir=parent))
    try:
        yield work
        work.chmod(0o755)
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


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder`, list it, and write manifest.json. Returns the manifest as written."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sealed = replace(manifest, files={name: digest(folder / name) for name in names})
    (folder / MANIFEST).write_text(manifests.dumps(sealed))
    return sealed


def pack(bundle: Bundle, output: Path) -> None:
    """Write `bundle` as one `.edgeattn` file (a zip archive, stored, so that it can be read in place)."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in (MANIFEST, *bundle.manifest.files):
                archive.write(bundle.path / name, name)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def digest(path: Path) -> FileEntry:
    """SHA-256 and size of a file, read in blocks."""
    with path.open("rb") as file:
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _read_manifest(root: Path) -> str:
    path = root / MANIFEST
    if not path.is_file():
        what = "is not there" if not root.exists() else f"has no {MANIFEST}"
        raise BundleError(f"{root}: not a bundle: it {what}; `edgeattn export SOURCE -o {root}` makes one")
    if path.stat().st_size > _MAX_MANIFEST:
        raise BundleError(f"{path}: {path.stat().st_size} bytes, at most {_MAX_MANIFEST} are read")
    return path.read_text(encoding="utf-8", errors="replace")


def _check_references(root: Path, manifest: Manifest) -> None:
    used = [*(f.file for f in manifest.flavours), *(g.file for g in manifest.golden), *(p.file for p in manifest.probes)]
    for name in used:
        if name not in manifest.files:
            raise BundleError(f"{root}: {MANIFEST} uses {name!r} but does not list its hash; export the model again")
    for flavour in manifest.flavours:
        if foreign := sorted(set(flavour.domains) - ALLOWED_DOMAINS):
            raise BundleError(f"{root}: {flavour.file} needs operators of domain {foreign[0]!r}, which bundles may not use")


def _verify(root: Path, name: str, entry: FileEntry) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or not parts.parts:
        raise BundleError(f"{root}: path {name!r} leaves the bundle; do not use this bundle")
    path = root / name
    if any((root / part).is_symlink() for part in (parts, *parts.parents)) or not path.is_file():
        state = "a link" if path.is_symlink() else "missing"
        raise BundleError(f"{root}: {name} is {state}; copy or export the bundle again")
    size = path.stat().st_size
    if size != entry.size:
        raise BundleError(f"{root}: {name} has {size} bytes, {MANIFEST} says {entry.size}; it was truncated or edited")
    if digest(path).sha256 != entry.sha256:
        raise BundleError(f"{root}: {name} does not match its SHA-256 in {MANIFEST}; it was edited or damaged in transit")


def _unpack(archive: Path) -> Path:
    try:
        key = digest(archive).sha256
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeattn"
        target = base / key
        if target.is_dir():
            return target
        with zipfile.ZipFile(archive) as source, writing(target) as work:
            _extract(source, work)
        return target
    except zipfile.BadZipFile as error:
        raise BundleError(f"{archive}: neither a bundle folder nor an .edgeattn file: {error}") from error


def _extract(source: zipfile.ZipFile, work: Path) -> None:
    entries = source.infolist()
    if len(entries) > _MAX_FILES or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise BundleError(f"{source.filename}: an .edgeattn file holds at most {_MAX_FILES} stored (uncompressed) files")
    for entry in entries:
        parts = PurePosixPath(entry.filename)
        if parts.is_absolute() or ".." in parts.parts or "\\" in entry.filename or entry.is_dir():
            raise BundleError(f"{source.filename}: path {entry.filename!r} leaves the bundle; do not use this file")
        source.extract(entry, work)


def _replace(work: Path, output: Path) -> None:
    """Move `work` to `output`; an old bundle there stays until the new one is in place."""
    if not output.exists():
        work.rename(output)
        return
    old = work.with_name(work.name + "-old")
    output.rename(old)
    work.rename(output)
    shutil.rmtree(old)


def _sweep(parent: Path, name: str) -> None:
    """Remove what killed exports of the same output left behind."""
    for stale in parent.glob(f".{name}.partial-*"):
        pid = stale.name.removeprefix(f".{name}.partial-").split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            shutil.rmtree(stale, ignore_errors=True)
