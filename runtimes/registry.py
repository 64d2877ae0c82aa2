"""Runtimes by name: the built-in ones and those of installed plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from edgeattn.errors import RuntimeMissingError, UsageError, unknown
from edgeattn.runtimes.base import Runtime

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "edgeattn.runtimes"
"""Entry-point group: `name = "package.module:RuntimeClass"`."""

_BUILT_IN = {
    "onnxruntime": "edgeattn.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "edgeattn.runtimes.openvino:OpenVINO",
    "reference": "edgeattn.runtimes.reference:Reference",
}


def names() -> tuple[str, ...]:
    """Every runtime that can be named, built-in first; whether it can be used is `Runtime.check`'s answer."""
    return (*_BUILT_IN, *sorted(set(_plugins()) - set(_BUILT_IN)))


def deployable() -> tuple[str, ...]:
    """Runtimes that run lowered models; the reference runs the canonical one."""
    return tuple(name for name in names() if not get(name).canonical)


@cache
def get(name: str) -> Runtime:
    """The runtime called `name`. Raises UsageError for an unknown name, with the nearest ones."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return _instance(name, getattr(import_module(module), attribute))
    plugins = _plugins()
    if name not in plugins:
        raise unknown("runtime", name, names())
    try:
        loaded = plugins[name].load()
    except Exception as error:
        raise RuntimeMissingError(
            f"the plug-in of runtime {name!r} ({plugins[name].value}) fails to import: {error}"
        ) from error
    return _instance(name, loaded)


def parse_target(target: str) -> tuple[Runtime, str]:
    """`onnxruntime:cpu` -> (runtime, device); the device defaults to `cpu`. Raises UsageError."""
    name, _, device = target.partition(":")
    runtime = get(name)
    device = device or "cpu"
    if device not in runtime.known_devices:
        raise unknown(f"device of runtime {name!r}", device, runtime.known_devices)
    return runtime, device


def _plugins() -> dict[str, EntryPoint]:
    from importlib import metadata  # slow to import, and the built-in runtimes do without

    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def _instance(name: str, factory: Callable[[], object]) -> Runtime:
    try:
        runtime = factory()
    except Exception as error:  # a plug-in's own code, or a class that lacks a method of the contract
        raise RuntimeMissingError(f"runtime {name!r} ({factory!r}) cannot be created: {error}") from error
    if not isinstance(runtime, Runtime):
        raise UsageError(f"{factory!r} is registered as a runtime but is not a subclass of edgeattn.runtimes.base.Runtime")
    if runtime.name != name:
        raise UsageError(f"{factory!r} is registered as runtime {name!r} but calls itself {runtime.name!r}; use one name")
    return runtime
