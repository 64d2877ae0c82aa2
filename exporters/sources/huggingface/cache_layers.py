"""transformers' cache around tensors that are there already."""

from __future__ import annotations

from typing import Any

import torch


def filled(keys: torch.Tensor, values: torch.Tensor) -> Any:
    """One layer of a cache that holds these keys and values, (B, K, P, D) each, and grows behind them."""
    from transformers.cache_utils import DynamicLayer

    layer = DynamicLayer()
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    layer.dtype, layer.device = keys.dtype, keys.device
    return layer


def taken_apart(cache: Any) -> list[torch.Tensor]:
    """Keys and values of every layer in turn."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
