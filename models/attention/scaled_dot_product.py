"""Scaled dot-product attention: the bare core, without projections.

Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1 (https://arxiv.org/abs/1706.03762):
Attention(Q, K, V) = softmax(Q K^T / sqrt(D)) V.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeattn.models.attention.naive import softmax_attention
from edgeattn.models.functional import attention
from edgeattn.spec import AttentionSpec, Full, MaskKind, Pattern, SoftmaxAttention


class ScaledDotProductAttention(nn.Module):
    """q (B, H, S, D), k (B, K, T, D), v (B, K, T, E) -> (B, H, S, E). Options as in `edgeattn.spec.SoftmaxAttention`."""

    naive = staticmethod(softmax_attention)

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        num_kv_heads: int | None = None,
        value_head_dim: int = 0,
        scale: float = 0.0,
        pattern: Pattern = Full(),  # noqa: B008 - frozen and without fields
        softcap: float | None = None,
        mask: MaskKind = "none",
        score_bias: bool = False,
    ) -> None:
        super().__init__()
        self.spec: AttentionSpec = SoftmaxAttention(
            q_heads=num_heads,
            kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=head_dim,
            value_head_dim=value_head_dim,
            scale=scale,
            pattern=pattern,
            softcap=softcap,
            mask=mask,
            bias=score_bias,
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        return attention(q, k, v, self.spec, mask, score_bias)

    def extra_repr(self) -> str:
        return self.spec.summary()
