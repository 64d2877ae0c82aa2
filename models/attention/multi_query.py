"""Multi-query attention: many query heads, one head of keys and values.

Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", 2019 (https://arxiv.org/abs/1911.02150).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.grouped_query import GroupedQueryAttention
from edgeattn.models.attention.projected import Options


class MultiQueryAttention(GroupedQueryAttention):
    """Grouped-query attention with a single group: K = 1."""

    def __init__(self, embed_dim: int, num_heads: int, **options: Unpack[Options]) -> None:
        super().__init__(embed_dim, num_heads, num_kv_heads=1, **options)
