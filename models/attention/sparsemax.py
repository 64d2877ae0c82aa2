"""Sparsemax attention: weights are the projection of the scores onto the simplex, and exactly 0 for all but a few keys.

Martins & Astudillo, "From Softmax to Sparsemax", 2016 (https://arxiv.org/abs/1602.02068).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Sparsemax


@variant("sparsemax", embed_dim=12, num_heads=3, scale=4.0)
class SparsemaxAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int = 1, **options: Unpack[SequenceOptions]) -> None:
        super().__init__(embed_dim, num_heads, normalizer=Sparsemax(), **options)
