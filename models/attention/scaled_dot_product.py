"""Scaled dot-product attention: the bare core, without projections.

Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1 (https://arxiv.org/abs/1706.03762):
Attention(Q, K, V) = softmax(Q K^T / sqrt(D)) V.
"""

from __future__ import annotations

from torch import Tensor

from edgeattn.models.attention.core import AttentionCore
from edgeattn.models.variant import variant


@variant("scaled_dot_product", num_heads=4, head_dim=3, num_kv_heads=2, value_head_dim=5)
class ScaledDotProductAttention(AttentionCore):
    """q (B, H, S, D), k (B, K, T, D), v (B, K, T, E) -> (B, H, S, E). Options as in `edgeattn.spec.SoftmaxAttention`."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        return self.core(q, k, v, mask, score_bias, prefix)
