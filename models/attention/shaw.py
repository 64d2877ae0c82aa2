"""Self-attention with Shaw's relative positions: a learned key for each clipped distance.

Shaw et al., "Self-Attention with Relative Position Representations", 2018 (https://arxiv.org/abs/1803.02155). Without the
paper's learned values; `edgeattn.models.positions.shaw` says why.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.shaw import ShawPositions
from edgeattn.models.variant import variant


@variant("shaw", embed_dim=12, num_heads=3, max_distance=2)
class ShawAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). Distances beyond `max_distance` count as `max_distance`."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        max_distance: int = 16,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, causal=causal, **options)
        self.place(ShawPositions(self.spec.head_dim, max_distance))
