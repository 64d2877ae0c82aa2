"""Cross-attention: queries from one sequence, keys and values from another.

Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2014
(https://arxiv.org/abs/1409.0473) for the idea; the encoder-decoder attention of Vaswani et al., 2017
(https://arxiv.org/abs/1706.03762), section 3.2.3, for the form.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.options import Options
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant


@variant("cross", embed_dim=12, num_heads=3, context_dim=7, mask="key_padding")
class CrossAttention(ProjectedAttention):
    """x (B, S, embed_dim), context (B, T, context_dim) -> (B, S, embed_dim). The mask is over the context."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        context_dim: int | None = None,
        num_kv_heads: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(embed_dim, num_heads, context_dim=context_dim, num_kv_heads=num_kv_heads, **options)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        return self.attend(x, context, context, mask, score_bias)
