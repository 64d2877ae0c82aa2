"""Entmax attention, alpha = 1.5: half way between softmax and sparsemax, smooth, and exactly 0 for unlikely keys.

Peters et al., "Sparse Sequence-to-Sequence Models", 2019 (https://arxiv.org/abs/1905.05702); Correia et al., "Adaptively
Sparse Transformers", 2019 (https://arxiv.org/abs/1909.00015), for its use in Transformers.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Entmax15


@variant("entmax", embed_dim=12, num_heads=3, scale=4.0)
class EntmaxAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int = 1, **options: Unpack[SequenceOptions]) -> None:
        super().__init__(embed_dim, num_heads, normalizer=Entmax15(), **options)
