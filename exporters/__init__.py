"""From a PyTorch model to a bundle: sources, capture, passes, lowerings."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "edgeattn.exporters":
    raise ImportError(f"this folder is the package edgeattn.exporters, not {__name__!r}: import edgeattn.exporters")

if TYPE_CHECKING:
    from edgeattn.exporters.custom.operator import CustomOperator as CustomOperator
    from edgeattn.exporters.custom.registry import register_custom_operator as register_custom_operator

_HOMES = {
    "CustomOperator": "edgeattn.exporters.custom.operator",
    "register_custom_operator": "edgeattn.exporters.custom.registry",
}
"""Imported when they are first used: torch takes seconds."""

__all__ = sorted(_HOMES)  # noqa: PLE0605 - names from the one table above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeattn.exporters' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
