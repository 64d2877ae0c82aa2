"""Top-k attention: a softmax over the k highest scores of each query; all other keys weigh nothing.

Gupta et al., "Memory-efficient Transformers via Top-k Attention", 2021 (https://arxiv.org/abs/2106.06899); Zhao et al.,
"Explicit Sparse Transformer", 2019 (https://arxiv.org/abs/1912.11637). `k=1` is the variant `hard`, without its estimators.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import TopK


@variant("top_k", embed_dim=12, num_heads=3, k=2)
class TopKAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). A `k` above S means all keys; the gradient reaches the chosen ones only."""

    def __init__(self, embed_dim: int, num_heads: int = 1, *, k: int, **options: Unpack[SequenceOptions]) -> None:
        super().__init__(embed_dim, num_heads, normalizer=TopK(k), **options)
