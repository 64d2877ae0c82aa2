"""Multi-head attention: H attentions side by side, each with its own projections of size D.

Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2 (https://arxiv.org/abs/1706.03762).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.grouped_query import GroupedQueryAttention
from edgeattn.models.attention.options import Options
from edgeattn.models.variant import variant


@variant("multi_head", embed_dim=12, num_heads=3, mask="key_padding")
class MultiHeadAttention(GroupedQueryAttention):
    """query (B, S, embed_dim), key and value (B, T, embed_dim) -> (B, S, embed_dim): grouped-query attention with K = H."""

    def __init__(self, embed_dim: int, num_heads: int, **options: Unpack[Options]) -> None:
        super().__init__(embed_dim, num_heads, num_kv_heads=num_heads, **options)
