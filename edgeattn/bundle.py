"""A bundle on disk: written atomically, opened only after its hashes, paths and sizes were checked.

A bundle is a folder, or the same folder zipped without compression as `NAME.edgeattn`:

    manifest.json  *.onnx  weights-<precision>.bin  golden/*.safetensors  probes/*.onnx  tokenizer/*
"""

from __future__ import annotations

import glob
import hashlib
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from threading import Thread

from edgeattn import manifest as manifests
from edgeattn.errors import BundleError, EdgeAttnError, UsageError
from edgeattn.manifest import FileEntry, Flavour, Manifest

MANIFEST = "manifest.json"
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "edgeattn"})
"""Operator domains a bundle may use. Anything else would need code that a bundle must not bring."""
_MAX_MANIFEST = 16 << 20
_MAX_FILES = 10_000
_OLD = "-old"


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
    return _open_archive(root) if root.is_file() else _open_folder(root)


@contextmanager
def opening(path: str | os.PathLike[str]) -> Iterator[Bundle]:
    """As `open_bundle`, but the weights are hashed in a second thread while the block runs; the block ends verified.

    Weights are plain numbers that nothing parses, and hashing them takes about as long as loading them. Everything
    else is verified before the block starts, the weights' size and place included.

    Raises:
        BundleError: as `open_bundle`; for edited weights at the end of the block, in place of an error of the block's own.
    """
    root = Path(path)
    if root.is_file():
        yield open_bundle(root)
        return
    bundle = _open_folder(root, later=_is_weights)
    errors: list[Exception] = []
    thread = Thread(target=_verify_weights, args=(bundle, errors))
    thread.start()
    try:
        yield bundle
    finally:
        thread.join()
        if errors:
            raise errors[0]


def _verify_weights(bundle: Bundle, errors: list[Exception]) -> None:
    try:
        for name, entry in bundle.manifest.files.items():
            if _is_weights(name):
                _verify_digest(bundle.path, name, entry)
    except (BundleError, OSError) as error:
        errors.append(error)


def _is_weights(name: str) -> bool:
    return name.startswith("weights-") and name.endswith(".bin")


def _open_folder(root: Path, later: Callable[[str], bool] = lambda _name: False) -> Bundle:
    """`later` picks the files whose digest somebody else will verify."""
    text = _read_manifest(root)
    manifest = manifests.loads(text)
    if len(manifest.files) > _MAX_FILES:
        raise BundleError(f"{root}: {len(manifest.files)} files listed, at most {_MAX_FILES} are read")
    _check_references(root, manifest)
    for name, entry in manifest.files.items():
        _verify(root, name, entry)
        if not later(name):
            _verify_digest(root, name, entry)
    return Bundle(root, manifest)


@contextmanager
def writing(output: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes `output` when the block ends well, and vanishes when it does not.

    Raises:
        UsageError: `output` exists and `force` is False.
    """
    output = Path(os.path.abspath(output))
    parent = output.parent
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(output)
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


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder`, list it, and write manifest.json. Returns the manifest as written."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    sealed = replace(manifest, files={name: digest(folder / name) for name in names})
    (folder / MANIFEST).write_text(manifests.dumps(sealed))
    return sealed


def pack(bundle: Bundle, output: Path) -> None:
    """Write `bundle` as one `.edgeattn` file (a zip archive, stored, so that it can be read in place)."""
    _sweep(Path(os.path.abspath(output)))
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name in (MANIFEST, *bundle.manifest.files):
                archive.write(bundle.path / name, name)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def digest(path: Path) -> FileEntry:
    """SHA-256 and size of a file, read in blocks."""
    with path.open("rb") as file:
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _mapped_digest(path: Path) -> str:
    """SHA-256 of a file in one call, which leaves the interpreter free for other threads throughout."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return hashlib.sha256().hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return hashlib.sha256(data).hexdigest()


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
    # The folder itself may be reached through a link; what is in it may not leave it through one.
    # os.path, unlike Path, takes a name that no file system allows for one that is not there.
    linked = any(os.path.islink(root / part) for part in (parts, *parts.parents[:-1]))
    if linked or not os.path.isfile(path):
        state = "a link, or in a linked folder," if linked else "missing"
        raise BundleError(f"{root}: {name} is {state}; copy or export the bundle again")
    size = path.stat().st_size
    if size != entry.size:
        raise BundleError(f"{root}: {name} has {size} bytes, {MANIFEST} says {entry.size}; it was truncated or edited")


def _verify_digest(root: Path, name: str, entry: FileEntry) -> None:
    if _mapped_digest(root / name) != entry.sha256:
        raise BundleError(f"{root}: {name} does not match its SHA-256 in {MANIFEST}; it was edited or damaged in transit")


def _open_archive(archive: Path) -> Bundle:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeattn"
    try:
        target = base / digest(archive).sha256
        if target.is_dir():
            with suppress(BundleError):  # the copy was damaged; the archive is what counts
                return _open_folder(target)
        with zipfile.ZipFile(archive) as source:
            _check_entries(source, archive.stat().st_size)
            with _writing_unless_there(target) as work:
                source.extractall(work)
    except EdgeAttnError:
        raise
    except zipfile.BadZipFile as error:
        raise BundleError(f"{archive}: neither a bundle folder nor an .edgeattn file: {error}") from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:  # all that zipfile raises for damaged entries
        raise BundleError(f"{archive}: cannot be unpacked into {base}: {error}") from error
    return _open_folder(target)


@contextmanager
def _writing_unless_there(target: Path) -> Iterator[Path]:
    """As `writing`, but a process that unpacks the same archive at the same time may win."""
    if target.is_dir():
        shutil.rmtree(target)
    try:
        with writing(target) as work:
            yield work
    except UsageError:
        if not target.is_dir():
            raise


def _check_entries(source: zipfile.ZipFile, archive_size: int) -> None:
    entries = source.infolist()
    plain = all(
        e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size and not e.flag_bits & 1 for e in entries
    )
    if len(entries) > _MAX_FILES or not plain:
        raise BundleError(f"{source.filename}: an .edgeattn file holds at most {_MAX_FILES} stored (uncompressed) files")
    # Entries that share their bytes would grow when unpacked.
    if sum(e.file_size for e in entries) > archive_size:
        raise BundleError(f"{source.filename}: its entries are larger than the file; do not use this file")
    for entry in entries:
        parts = PurePosixPath(entry.filename)
        if parts.is_absolute() or ".." in parts.parts or "\\" in entry.filename or ":" in entry.filename:
            raise BundleError(f"{source.filename}: path {entry.filename!r} leaves the bundle; do not use this file")


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


def _sweep(output: Path) -> None:
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
