"""`pkg.mod:factory` and `file.py:factory`: the user's own code, which returns a module and its inputs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from edgeattn.errors import SourceError, unknown
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.module import from_module

CONTRACT = "a factory takes no arguments and returns (module, inputs) or (module, inputs, dynamic)"


def from_factory(text: str) -> Source:
    """Import and call a factory. Raises SourceError with the reason when it fails or returns something else."""
    path, _, name = text.rpartition(":")
    is_file = path.endswith(".py")
    with _importing_from(Path(path).parent if is_file else Path()):
        module = _load_file(Path(path)) if is_file else _load_module(path)
        result = _call(module, name, text, path)
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise SourceError(f"{text} returned {got}; {CONTRACT}")
    built, inputs, *dynamic = result
    return from_module(built, inputs, dynamic[0] if dynamic else None, name=text, kind="factory")


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """As `python file.py` and `python -m` do: what lies beside the file, or in the working directory, can be imported."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _call(module: ModuleType, name: str, text: str, path: str) -> object:
    factory = getattr(module, name, None)
    if factory is None:
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SourceError(f"{path}: {unknown('factory', name, callables)}")
    if not callable(factory):
        raise SourceError(f"{text} is a {type(factory).__name__}; {CONTRACT}")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise SourceError(f"{text} raised {type(error).__name__}: {error}; {CONTRACT}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"no file {path}; a factory is named as path/to/file.py:function")
    name = f"edgeattn_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pickling inside the file find their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script without a __main__ guard may call sys.exit
        del sys.modules[name]
        raise SourceError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise SourceError(f"module {name!r} fails to import: {type(error).__name__}: {error}") from error
