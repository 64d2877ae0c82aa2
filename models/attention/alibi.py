"""Self-attention with ALiBi: scores fall linearly with distance, in each head at another rate.

Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation", 2021
(https://arxiv.org/abs/2108.12409).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.alibi import AlibiPositions
from edgeattn.models.variant import variant


@variant("alibi", embed_dim=12, num_heads=3)
class AlibiAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int = 1, *, causal: bool = False, **options: Unpack[GeneralOptions]) -> None:
        super().__init__(embed_dim, num_heads, positions=AlibiPositions(num_heads), causal=causal, **options)
