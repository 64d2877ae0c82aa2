"""Importing the engines: late, explained when they are missing, and without their telemetry.

An app on a board must not open network connections because it runs a model. Both engines do so by default, from the
moment they are imported, so this is the one place that imports them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgeattn.runtimes.base import Availability


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which uploads nothing and writes no device id. Raises ImportError."""
    # The function below stops later events only; the variable, read once at import, also stops the uploader's thread,
    # the first event and the files in the user's cache folder. A value that the user has set is kept.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino() -> Any:
    """The module `openvino`, with its own stub in place of the telemetry client. Raises ImportError."""
    if "openvino" in sys.modules:
        import openvino

        return openvino
    # it sends an event while it is imported
    with _without_telemetry():
        import openvino
    return openvino


def import_nncf() -> Any:
    """The module `nncf`, with its own stub in place of the telemetry client. Raises ImportError."""
    import_openvino()
    with _without_telemetry():
        import nncf
    return nncf


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """While it is imported, a module finds no telemetry client and so uses a stub; a client that is loaded already stays."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    # None is Python's own way to say "not installed"; it is taken back at once.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def availability(package: str, load: Callable[[], Any], how_to_install: str) -> Availability:
    """Whether `load` can import `package`, with the version it has. Never raises."""
    try:
        version = str(load().__version__)
    except ModuleNotFoundError as error:
        missing = f"{package} is not installed" if error.name == package else f"{package} needs {error.name}"
        return Availability(False, missing, how_to_install)
    except Exception as error:  # noqa: BLE001 - a broken install can fail in any way, and `check` must answer
        return Availability(False, f"{package} fails to import: {error}", how_to_install)
    return Availability(True, version=version)
