"""Rotary positions: pairs of a head's numbers are turned by an angle that grows with the position.

So q k^T depends on positions only by their distance. Su et al., "RoFormer: Enhanced Transformer with Rotary Position
Embedding", 2021 (https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.fields import check_one_of
from edgeattn.models.positions.base import Positions
from edgeattn.models.positions.frequencies import DynamicNTK, Scaling, plain_frequencies

Style = Literal["half", "interleaved"]
"""Which numbers form pair c of a head of R: `half`: c and c + R/2 (GPT-NeoX, Llama). `interleaved`: 2c and 2c + 1 (the
paper, GPT-J). Weights trained with one are wrong with the other."""


class RotaryPositions(Positions):
    """q and k turned by position, the first `rotary_dim` numbers of each head (0: all of them).

    `scaling` (Linear, DynamicNTK, YaRN or Llama3 of `edgeattn.models.positions.frequencies`) stretches the trained context.

    Raises:
        UsageError: a rotary_dim that is odd or larger than the head.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        rotary_dim: int = 0,
        base: float = 10000.0,
        style: Style = "half",
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        check_one_of("style", style, get_args(Style))
        self.size = rotary_dim or head_dim
        if not 2 <= self.size <= head_dim or self.size % 2:
            raise UsageError(f"rotary_dim must be even and at most head_dim ({head_dim}), got {self.size}")
        self.base, self.style, self.scaling = base, style, scaling
        frequencies = plain_frequencies(self.size, base) if scaling is None else scaling.frequencies(self.size, base)
        self.frequencies = tuple(frequencies.tolist())

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q (B, H, S, D), k (B, K, S, D) of one sequence -> the same shapes. For others see `waves` and `turn`."""
        cos, sin = self.waves(torch.arange(k.shape[2], device=k.device))
        return self.turn(q, cos, sin), self.turn(k, cos, sin)

    def waves(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Integer positions (..., S) -> float32 cosines and sines, (..., S, size / 2) each."""
        if isinstance(self.scaling, DynamicNTK):
            frequencies = self.scaling.at_length(positions.max() + 1, self.size, self.base)
        else:
            frequencies = torch.tensor(self.frequencies, device=positions.device, dtype=torch.float32)
        angles = positions.float()[..., None] * frequencies
        magnitude = 1.0 if self.scaling is None else self.scaling.magnitude
        return angles.cos() * magnitude, angles.sin() * magnitude

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, H, S, D) and waves that can be broadcast to (B, H, S, size / 2) -> x turned."""
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        turned, rest = x[..., : self.size], x[..., self.size :]
        if self.style == "half":
            a, b = turned.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        else:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1) if self.size < x.shape[-1] else turned
