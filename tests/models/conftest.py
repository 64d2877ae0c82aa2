"""Every variant in turn, as its file's example makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from edgeattn.models import create, list_variants
from edgeattn.models.examples import draw
from edgeattn.models.registry import example_options

# Machines that run tests are busy: the time of one example says nothing, and a failure must come back.
settings.register_profile("edgeattn", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeattn")

Inputs = Callable[[int, int, int], dict[str, Tensor]]

SAMPLE = ("additive", "block_sparse", "document", "hard", "prefix_lm", "rope", "sink", "sink_tokens")
"""At least one variant of each kind of input, pattern, normalizer and position."""


@pytest.fixture(params=list_variants())
def name(request: pytest.FixtureRequest) -> str:
    """The name of each variant in turn."""
    torch.manual_seed(0)
    return str(request.param)


@pytest.fixture(params=[pytest.param(n, marks=() if n in SAMPLE else pytest.mark.slow) for n in list_variants()])
def sampled(request: pytest.FixtureRequest) -> str:
    """The name of each variant in turn, for what takes long: all but a sample are slow."""
    torch.manual_seed(0)
    return str(request.param)


@pytest.fixture
def options(name: str) -> dict[str, Any]:
    """Options to create the variant with."""
    return example_options(name)


@pytest.fixture
def module(name: str, options: dict[str, Any]) -> nn.Module:
    """The variant, made by its name."""
    return create(name, **options)


@pytest.fixture
def inputs(module: nn.Module, options: dict[str, Any]) -> Inputs:
    """inputs(B, S, T): what the variant's forward takes, by name; T counts only where there is a second sequence."""
    return lambda batch, queries, keys: draw(module, options, queries, batch, keys)[0]  # type: ignore[arg-type]
