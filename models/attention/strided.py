"""Strided attention: causal, over the last `stride` positions and every `stride`-th before them.

Child et al., "Generating Long Sequences with Sparse Transformers", 2019 (https://arxiv.org/abs/1904.10509), section 4.3,
both heads' patterns merged; for data with a period, such as the rows of an image.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Strided


@variant("strided", embed_dim=12, num_heads=3, stride=3)
class StridedAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees j <= i with i - j < stride or (i - j) % stride == 0."""

    def __init__(self, embed_dim: int, num_heads: int = 1, *, stride: int, **options: Unpack[SequenceOptions]) -> None:
        super().__init__(embed_dim, num_heads, pattern=Strided(stride), **options)
