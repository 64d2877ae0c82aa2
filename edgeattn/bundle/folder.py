"""A bundle folder: its layout, and how it is opened with hashes, paths and sizes checked."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgeattn import manifest as manifests
from edgeattn.errors import BundleError
from edgeattn.manifest import FP32, FileEntry, Flavour, Manifest
from edgeattn.openvino_ir import SUFFIX, read_ir
from edgeattn.operators import undefined_operators

MANIFEST = "manifest.json"
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "edgeattn"})
"""Operator domains a bundle may use as they are. An operator of any other one has to be a function in the same file: a native
kernel for it would be code that a bundle must not bring."""
_MAX_MANIFEST = 16 << 20
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, verified bundle: its folder and what its manifest says."""

    path: Path
    manifest: Manifest
    parts: dict[str, Bundle] = field(default_factory=dict)
    """Further models of the bundle, each as a bundle over its own files, in the same folder."""

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises BundleError for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: {name!r} is not listed in {MANIFEST}; the bundle is foreign or was edited")
        return self.path / name

    @property
    def size(self) -> int:
        """Bytes of all files the manifest lists."""
        return sum(entry.size for entry in self.manifest.files.values())

    def flavour_size(self, *flavours: Flavour) -> int:
        """Bytes a device needs to run `flavours`: their graphs and the weights that they share."""
        names = {name: None for flavour in flavours for name in (flavour.file, weights_of(flavour))}
        return sum(self.manifest.files[name].size for name in names if name in self.manifest.files)


def weights_name(precision: str) -> str:
    """The weight file that all flavours at full precision share."""
    return f"weights-{precision}.bin"


def weights_of(flavour: Flavour) -> str:
    """The weight file of a flavour; in smaller numbers each that has a file of its own has weights of its own beside it, since
    runtimes lay them out differently."""
    stem = PurePosixPath(flavour.file).stem
    return f"{stem}.bin" if flavour.quantized and stem.endswith(f"-{flavour.precision}") else weights_name(FP32)


def part_manifest(part: str) -> str:
    """The file that is the manifest of a part."""
    return f"{part}.{MANIFEST}"


def open_folder(root: Path, later: Callable[[str], bool] = lambda _name: False) -> Bundle:
    """`later` picks the files whose digest somebody else will verify."""
    text = _read_manifest(root)
    manifest = manifests.loads(text)
    if len(manifest.files) > MAX_FILES:
        raise BundleError(f"{root}: {len(manifest.files)} files listed, at most {MAX_FILES} are read")
    _check_references(root, manifest)
    for name, entry in manifest.files.items():
        _verify(root, name, entry)
        if not later(name):
            verify_digest(root, name, entry)
    _check_forms(root, manifest)
    return Bundle(root, manifest, {part: _open_part(root, manifest, part) for part in manifest.parts})


def _open_part(root: Path, whole: Manifest, part: str) -> Bundle:
    """A part, whose files are some of the `whole` bundle's and were verified as such."""
    name = part_manifest(part)
    _check_manifest_size(root / name)
    manifest = manifests.loads((root / name).read_text(encoding="utf-8", errors="replace"))
    if manifest.parts:
        raise BundleError(f"{root}: {name} has parts of its own, which no part has; export the model again")
    for file, entry in manifest.files.items():
        if whole.files.get(file) != entry:
            raise BundleError(
                f"{root}: {name} and {MANIFEST} differ in {file!r}; the bundle was edited: export the model again"
            )
    _check_references(root, manifest)
    _check_forms(root, manifest)
    return Bundle(root, manifest)


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
    _check_manifest_size(path)
    return path.read_text(encoding="utf-8", errors="replace")


def _check_manifest_size(path: Path) -> None:
    if path.stat().st_size > _MAX_MANIFEST:
        raise BundleError(f"{path}: {path.stat().st_size} bytes, at most {_MAX_MANIFEST} are read")


def _check_references(root: Path, manifest: Manifest) -> None:
    used = [*(f.file for f in manifest.flavours), *(g.file for g in manifest.golden), *(p.file for p in manifest.probes)]
    used += [part_manifest(part) for part in manifest.parts]
    for name in used:
        if name not in manifest.files:
            raise BundleError(f"{root}: {MANIFEST} uses {name!r} but does not list its hash; export the model again")


def _check_forms(root: Path, manifest: Manifest) -> None:
    """Models are ONNX or OpenVINO's own form, and bring no code."""
    for flavour in manifest.flavours:
        if flavour.file.endswith(".onnx"):
            _check_domains(root, flavour)
    for file in [*(f.file for f in manifest.flavours), *(p.file for p in manifest.probes)]:
        if file.endswith(SUFFIX):
            _check_layers(root, manifest, file)
        elif not file.endswith(".onnx"):
            raise BundleError(f"{root}: model {file!r} is neither .onnx nor {SUFFIX}; export the model again")


def _check_domains(root: Path, flavour: Flavour) -> None:
    """What a file needs beyond a runtime's own operators, it defines."""
    foreign = frozenset(flavour.domains) - ALLOWED_DOMAINS
    if foreign and (undefined := undefined_operators(root / flavour.file, foreign)):
        raise BundleError(
            f"{root}: {flavour.file} needs {undefined[0]}, an operator of domain {undefined[0].domain!r}, which bundles may "
            "not use unless the file defines it; export the model again"
        )


def _check_layers(root: Path, manifest: Manifest, file: str) -> None:
    """Known layers only, and numbers from a file whose hash is listed."""
    found = read_ir(root / file)
    if found.foreign:
        raise BundleError(
            f"{root}: {file} needs {found.foreign[0]}, which is no layer that bundles may use; export the model again"
        )
    note = found.note()
    weights = str(PurePosixPath(file).parent / note.weights) if note else "no file"
    if weights not in manifest.files:
        raise BundleError(f"{root}: {file} takes its weights from {weights}, not listed in {MANIFEST}; export the model again")


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


def verify_digest(root: Path, name: str, entry: FileEntry) -> None:
    if _mapped_digest(root / name) != entry.sha256:
        raise BundleError(f"{root}: {name} does not match its SHA-256 in {MANIFEST}; it was edited or damaged in transit")
