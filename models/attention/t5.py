"""Self-attention with T5's relative positions: a learned bias for each bucket of distances and each head.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2019
(https://arxiv.org/abs/1910.10683), section 2.1. To load T5 itself: `scale=1.0, bias=False`.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.t5 import T5Positions
from edgeattn.models.variant import variant


@variant("t5", embed_dim=12, num_heads=3, num_buckets=8, max_distance=16, scale=1.0)
class T5Attention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). `causal` gives all buckets to keys that come before the query."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        positions = T5Positions(num_heads, num_buckets=num_buckets, max_distance=max_distance, causal=causal)
        super().__init__(embed_dim, num_heads, positions=positions, causal=causal, **options)
