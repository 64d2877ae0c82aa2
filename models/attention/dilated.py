"""Dilated attention: a sliding window with gaps, which reaches `dilation` times as far at the same cost.

Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), section 3.1.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Dilated


@variant("dilated", embed_dim=12, num_heads=3, left=2, right=1, dilation=2)
class DilatedAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees i + m * dilation for -left <= m <= right."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        left: int,
        right: int = 0,
        dilation: int,
        **options: Unpack[SequenceOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=Dilated(left, right, dilation), **options)
