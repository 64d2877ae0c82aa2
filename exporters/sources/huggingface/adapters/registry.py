"""Which adapters a model needs."""

from __future__ import annotations

from typing import Any

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter

ADAPTERS: tuple[Adapter, ...] = ()


def adapters(model: Any) -> list[Adapter]:
    """Those for the classes of the model's modules."""
    present = {type(module).__name__ for module in model.modules()}
    return [adapter for adapter in ADAPTERS if present.intersection(adapter.classes)]
