"""Self-attention after sinusoidal positions: fixed sines and cosines are added to x.

Vaswani et al., "Attention Is All You Need", 2017, section 3.5 (https://arxiv.org/abs/1706.03762). In a deep model they
are added once, before the first layer: there, use `edgeattn.models.positions.sinusoidal` by itself.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.sinusoidal import Layout, SinusoidalPositions
from edgeattn.models.variant import variant


@variant("sinusoidal", embed_dim=12, num_heads=3)
class SinusoidalAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); q, k and v all come from x with its positions."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        base: float = 10000.0,
        layout: Layout = "interleaved",
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        positions = SinusoidalPositions(embed_dim, base=base, layout=layout)
        super().__init__(embed_dim, num_heads, positions=positions, causal=causal, **options)
