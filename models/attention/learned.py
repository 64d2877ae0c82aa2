"""Self-attention after learned positions: a learned vector for each position is added to x.

Gehring et al., "Convolutional Sequence to Sequence Learning", 2017 (https://arxiv.org/abs/1705.03122); Devlin et al.,
"BERT", 2018 (https://arxiv.org/abs/1810.04805). In a deep model they are added once, before the first layer: there, use
`edgeattn.models.positions.learned` by itself.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.learned import LearnedPositions
from edgeattn.models.variant import variant


@variant("learned", embed_dim=12, num_heads=3, max_length=64)
class LearnedAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim), S <= max_length; q, k and v all come from x with its positions."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        max_length: int = 512,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, positions=LearnedPositions(embed_dim, max_length), causal=causal, **options)
