"""Open a bundle, folder or file; nothing of it is used before it was verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from edgeattn.bundle.archive import open_archive
from edgeattn.bundle.folder import Bundle, open_folder, verify_digest
from edgeattn.errors import BundleError


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder or `.edgeattn` file; every listed file's size and SHA-256 are verified first.

    A zipped bundle is unpacked into the user's cache, under its own hash, since runtimes map weights from real files.

    Raises:
        BundleError: missing, truncated, edited, foreign, or with a path that leaves the bundle.
    """
    root = Path(path)
    return open_archive(root) if root.is_file() else open_folder(root)


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
    bundle = open_folder(root, later=_is_weights)
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
                verify_digest(bundle.path, name, entry)
    except (BundleError, OSError) as error:
        errors.append(error)


def _is_weights(name: str) -> bool:
    return name.startswith("weights-") and name.endswith(".bin")
