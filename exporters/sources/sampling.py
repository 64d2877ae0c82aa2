"""Inputs of other sizes than the example, drawn so that they stay plausible for the model."""

from __future__ import annotations

import torch


def sample_like(example: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A tensor of `shape` and the example's dtype.

    Floats are normal with the example's mean and deviation. Integers and booleans are drawn from the example's own
    values, so that token ids stay inside a vocabulary nobody told us; so are floats with infinities among them, which
    are masks.
    """
    if example.numel() == 0:
        raise ValueError("an example tensor must not be empty")
    if example.is_floating_point() and bool(torch.isfinite(example).all()):
        spread = float(example.float().std()) if example.numel() > 1 else 1.0
        noise = torch.randn(shape, generator=generator) * (spread or 1.0) + float(example.float().mean())
        return noise.to(example.dtype)
    values = example.flatten()
    return values[torch.randint(values.numel(), shape, generator=generator)]
