"""A function of the user's own, from a Python file that is named on the command line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeattn.errors import UsageError


def load_function(text: str, option: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:name` says, given as `option`. The file is run, once.

    Raises:
        UsageError: there is no such file or function, or the file does not run.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise UsageError(f"{option} {text!r}: expected path/to/file.py:function, with a file that is there")
    try:
        module = _module(path.resolve(), path.stat().st_mtime_ns)
    except Exception as error:
        raise UsageError(f"{option} {text!r}: {path} failed to run: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{option} {text!r}: {path} has no function {name!r}; it has: {', '.join(_functions(module))}")
    return found  # type: ignore[no-any-return]


@cache
def _module(path: Path, changed: int) -> ModuleType:
    """The file as it was `changed` last, run once."""
    spec = importlib.util.spec_from_file_location(f"edgeattn_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    spec.loader.exec_module(module)
    return module


def _functions(module: object) -> list[str]:
    return sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_")) or ["none"]
