"""A bundle as one file, `NAME.edgeattn`: a zip archive, stored and not compressed, unpacked into the user's cache."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from edgeattn.bundle.folder import MANIFEST, MAX_FILES, Bundle, digest, open_folder
from edgeattn.bundle.writing import sweep, writing
from edgeattn.errors import BundleError, EdgeAttnError, UsageError
from edgeattn.notes import cache_folder


def pack(bundle: Bundle, output: Path) -> None:
    """Write `bundle` as one `.edgeattn` file (a zip archive, stored, so that it can be read in place)."""
    sweep(Path(os.path.abspath(output)))
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name in (MANIFEST, *bundle.manifest.files):
                archive.write(bundle.path / name, name)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def open_archive(archive: Path) -> Bundle:
    """Unpack, unless the same file was unpacked before, and open. Raises BundleError."""
    base = cache_folder()
    try:
        target = base / digest(archive).sha256
        if target.is_dir():
            with suppress(BundleError):  # the copy was damaged; the archive is what counts
                return open_folder(target)
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
    return open_folder(target)


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
    if len(entries) > MAX_FILES or not plain:
        raise BundleError(f"{source.filename}: an .edgeattn file holds at most {MAX_FILES} stored (uncompressed) files")
    # Entries that share their bytes would grow when unpacked.
    if sum(e.file_size for e in entries) > archive_size:
        raise BundleError(f"{source.filename}: its entries are larger than the file; do not use this file")
    for entry in entries:
        parts = PurePosixPath(entry.filename)
        if parts.is_absolute() or ".." in parts.parts or "\\" in entry.filename or ":" in entry.filename:
            raise BundleError(f"{source.filename}: path {entry.filename!r} leaves the bundle; do not use this file")
