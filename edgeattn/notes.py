"""What was established once and holds until its subject changes, noted as empty files in the user's cache.

A note is named by the hash of all that it depends on, so a changed subject simply has no note. Where there is no cache
to write to, nothing is noted and everything is established anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """edgeattn's folder in the user's cache. Raises RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeattn"


def known(kind: str, subject: Any) -> bool:
    """Whether `remember` was called with the same kind and the same subject (anything JSON can hold)."""
    try:
        return _note(kind, subject).is_file()
    except (OSError, RuntimeError):
        return False


def remember(kind: str, subject: Any) -> None:
    """Note it; without effect where the cache cannot be written."""
    with suppress(OSError, RuntimeError):
        note = _note(kind, subject)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _note(kind: str, subject: Any) -> Path:
    text = json.dumps(subject, sort_keys=True)
    return cache_folder() / kind / hashlib.sha256(text.encode()).hexdigest()
