"""Variants to test, each with options that are not the simplest ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from edgeattn.models import create, list_variants

# Machines that run tests are busy: the time of one example says nothing, and a failure must come back.
settings.register_profile("edgeattn", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeattn")

OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "window": 3},
    "cross": {"embed_dim": 12, "num_heads": 3, "context_dim": 7},
    "grouped_query": {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "value_head_dim": 5},
    "multi_head": {"embed_dim": 12, "num_heads": 3, "softcap": 2.0},
    "multi_query": {"embed_dim": 12, "num_heads": 4, "bias": False},
    "scaled_dot_product": {"num_heads": 4, "head_dim": 3, "num_kv_heads": 2, "value_head_dim": 5},
    "self": {"embed_dim": 12, "scale": 0.5},
}

Inputs = Callable[[int, int, int], tuple[Tensor, ...]]


def _inputs(name: str) -> Inputs:
    def make(batch: int, queries: int, keys: int) -> tuple[Tensor, ...]:
        if name == "scaled_dot_product":
            return torch.randn(batch, 4, queries, 3), torch.randn(batch, 2, keys, 3), torch.randn(batch, 2, keys, 5)
        x = torch.randn(batch, queries, 12)
        return (x, torch.randn(batch, keys, 7)) if name == "cross" else (x,)

    return make


@pytest.fixture(params=list_variants())
def name(request: pytest.FixtureRequest) -> str:
    """The name of each variant in turn."""
    torch.manual_seed(0)
    return str(request.param)


@pytest.fixture
def options(name: str) -> dict[str, Any]:
    """Options to create the variant with."""
    return dict(OPTIONS[name])


@pytest.fixture
def module(name: str, options: dict[str, Any]) -> nn.Module:
    """The variant, made by its name."""
    return create(name, **options)


@pytest.fixture
def inputs(name: str) -> Inputs:
    """inputs(B, S, T): positional arguments of the variant's forward; T counts only where there is a second sequence."""
    return _inputs(name)
