"""Multi-query attention: many query heads, one head of keys and values.

Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", 2019 (https://arxiv.org/abs/1911.02150).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.grouped_query import GroupedQueryAttention
from edgeattn.models.attention.options import Options
from edgeattn.models.variant import variant


@variant("multi_query", embed_dim=12, num_heads=4, bias=False)
class MultiQueryAttention(GroupedQueryAttention):
    """query (B, S, embed_dim), key and value (B, T, embed_dim) -> (B, S, embed_dim): grouped-query attention with K = 1."""

    def __init__(self, embed_dim: int, num_heads: int, **options: Unpack[Options]) -> None:
        super().__init__(embed_dim, num_heads, num_kv_heads=1, **options)
