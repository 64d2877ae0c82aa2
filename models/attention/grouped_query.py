"""Grouped-query attention: each key/value head serves a group of query heads, so a KV cache shrinks by the group's size.

Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023
(https://arxiv.org/abs/2305.13245). K = H is multi-head attention, K = 1 is multi-query attention.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.options import Options
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant


@variant("grouped_query", embed_dim=12, num_heads=4, num_kv_heads=2, value_head_dim=5)
class GroupedQueryAttention(ProjectedAttention):
    """query (B, S, embed_dim), key and value (B, T, embed_dim) -> (B, S, embed_dim).

    Query head h reads key/value head h // (num_heads / num_kv_heads). `key` defaults to `query`, `value` to `key`.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_kv_heads: int, **options: Unpack[Options]) -> None:
        super().__init__(embed_dim, num_heads, num_kv_heads=num_kv_heads, **options)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
    ) -> Tensor:
        key = query if key is None else key
        return self.attend(query, key, key if value is None else value, mask, score_bias)
