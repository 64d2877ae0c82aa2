"""Sinusoidal positions: sines and cosines of geometrically spaced wavelengths are added to x; any length, nothing learned.

Vaswani et al., "Attention Is All You Need", 2017, section 3.5 (https://arxiv.org/abs/1706.03762):
PE(i, 2c) = sin(i / 10000^(2c / C)), PE(i, 2c + 1) = cos(i / 10000^(2c / C)).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.fields import check_one_of
from edgeattn.models.positions.base import Positions
from edgeattn.models.positions.frequencies import plain_frequencies

Layout = Literal["interleaved", "half"]
"""`interleaved`: sine and cosine take turns, as in the paper. `half`: all sines first (tensor2tensor, Marian)."""


class SinusoidalPositions(Positions):
    """x (B, S, embed_dim) -> x + PE."""

    def __init__(self, embed_dim: int, *, base: float = 10000.0, layout: Layout = "interleaved") -> None:
        super().__init__()
        check_one_of("layout", layout, get_args(Layout))
        if embed_dim < 2 or embed_dim % 2:
            raise UsageError(f"embed_dim must be even, half sines and half cosines, got {embed_dim}")
        self.layout = layout
        self.frequencies = tuple(plain_frequencies(embed_dim, base).tolist())

    def embed(self, x: Tensor) -> Tensor:
        """x (B, S, embed_dim) -> (B, S, embed_dim)."""
        return x + self.table(x.shape[1], x.device).to(x.dtype)

    def table(self, length: int, device: torch.device | None = None) -> Tensor:
        """float32 (length, embed_dim): what is added at each position."""
        frequencies = torch.tensor(self.frequencies, device=device, dtype=torch.float32)
        angles = torch.arange(length, device=device).float()[:, None] * frequencies
        waves = angles.sin(), angles.cos()
        return torch.cat(waves, dim=-1) if self.layout == "half" else torch.stack(waves, dim=-1).flatten(-2)
