"""Causal self-attention: a position sees itself and what came before, all of it or the last `window` positions.

Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762), section 3.2.3, for the decoder's masked self-attention;
Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), and Jiang et al., "Mistral 7B", 2023
(https://arxiv.org/abs/2310.06825), for the sliding window.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.options import Options
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Causal, Pattern, SlidingWindow


@variant("causal", embed_dim=12, num_heads=4, num_kv_heads=2)
class CausalAttention(ProjectedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees j with i - window < j <= i (no window: every j <= i)."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        num_kv_heads: int | None = None,
        window: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(embed_dim, num_heads, num_kv_heads=num_kv_heads, pattern=_pattern(window), **options)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        return self.attend(x, x, x, mask, score_bias)


def _pattern(window: int | None) -> Pattern:
    if window is None:
        return Causal()
    if window < 1:
        raise UsageError(f"window must be at least 1 (the position itself), got {window}")
    return SlidingWindow(left=window - 1, right=0)
