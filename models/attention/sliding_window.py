"""Sliding-window attention: a position sees `left` positions before itself and `right` after; 0 after, the default, is causal.

Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), section 3.1, both ways; Jiang et al., "Mistral 7B",
2023 (https://arxiv.org/abs/2310.06825), causal.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import SlidingWindow


@variant("sliding_window", embed_dim=12, num_heads=4, num_kv_heads=2, left=2, right=1)
class SlidingWindowAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees j with -left <= j - i <= right."""

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, left: int, right: int = 0, **options: Unpack[SequenceOptions]
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=SlidingWindow(left, right), **options)
