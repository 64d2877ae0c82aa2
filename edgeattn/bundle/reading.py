"""Open a bundle, folder or file; nothing of it is used before it was verified."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from edgeattn import notes
from edgeattn.bundle.archive import open_archive
from edgeattn.bundle.folder import Bundle, open_folder, verify_digest
from edgeattn.errors import BundleError

_SETTLED_NS = 2_000_000_000
"""A file's times count in ticks, of two seconds on the coarsest file system (FAT)."""
_FIELDS = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder or `.edgeattn` file; every listed file's size and SHA-256 are verified first.

    A zipped bundle is unpacked into the user's cache, under its own hash, since runtimes map weights from real files.

    Raises:
        BundleError: missing, truncated, edited, foreign, or with a path that leaves the bundle.
    """
    root = Path(path)
    if root.is_file():
        return open_archive(root)
    bundle = open_folder(root, later=_is_weights)
    _verify(bundle, [name for name in bundle.manifest.files if _is_weights(name)])
    return bundle


@contextmanager
def opening(path: str | os.PathLike[str]) -> Iterator[Bundle]:
    """As `open_bundle`, but the weights' hash does not delay the block; the block ends verified.

    Weights are plain numbers that nothing parses, and hashing them takes about as long as loading them. They are hashed
    in a second thread while the block runs, and not at all where the very file was hashed before and was not touched
    since. Everything else is verified before the block starts, the weights' size and place included.

    Raises:
        BundleError: as `open_bundle`; for edited weights at the end of the block, in place of an error of the block's own.
    """
    root = Path(path)
    if root.is_file():
        yield open_bundle(root)
        return
    bundle = open_folder(root, later=_is_weights)
    weights = [name for name in bundle.manifest.files if _is_weights(name) and not _verified_before(bundle, name)]
    errors: list[Exception] = []
    thread = Thread(target=_try_verify, args=(bundle, weights, errors))
    thread.start()
    try:
        yield bundle
    finally:
        thread.join()
        if errors:
            raise errors[0]


def _try_verify(bundle: Bundle, names: list[str], errors: list[Exception]) -> None:
    try:
        _verify(bundle, names)
    except (BundleError, OSError) as error:
        errors.append(error)


def _verify(bundle: Bundle, names: list[str]) -> None:
    """Hash each file, and note those that match and were not touched meanwhile."""
    for name in names:
        before = _state(bundle, name)
        verify_digest(bundle.path, name, bundle.manifest.files[name])
        if before is not None and before == _state(bundle, name):
            notes.remember("verified", before)


def _verified_before(bundle: Bundle, name: str) -> bool:
    state = _state(bundle, name)
    return state is not None and notes.known("verified", state)


def _state(bundle: Bundle, name: str) -> list[str | int] | None:
    """What a file is known by while nobody touches it, with the digest it ought to have.

    `st_ctime_ns` cannot be set back as `st_mtime_ns` can, so an edit shows even if it hides itself. None where that does
    not hold: on Windows it is the time of creation, and just after a change a second one may bear the same time.
    """
    status = os.stat(bundle.path / name)
    settled = status.st_ctime_ns < time.time_ns() - _SETTLED_NS
    if os.name != "posix" or not settled:
        return None
    digest = bundle.manifest.files[name].sha256
    return [digest, os.path.abspath(bundle.path / name), *(getattr(status, field) for field in _FIELDS)]


def _is_weights(name: str) -> bool:
    return name.startswith("weights-") and name.endswith(".bin")
