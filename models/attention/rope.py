"""Self-attention with rotary positions (RoPE): queries and keys turn with their position.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021 (https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.frequencies import Scaling
from edgeattn.models.positions.rope import RotaryPositions, Style
from edgeattn.models.variant import variant


@variant("rope", embed_dim=16, num_heads=2, rotary_dim=6, causal=True)
class RotaryAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). Options as in `edgeattn.models.positions.rope.RotaryPositions`."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        rotary_dim: int = 0,
        base: float = 10000.0,
        style: Style = "half",
        scaling: Scaling | None = None,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, causal=causal, **options)
        self.place(RotaryPositions(self.spec.head_dim, rotary_dim=rotary_dim, base=base, style=style, scaling=scaling))
