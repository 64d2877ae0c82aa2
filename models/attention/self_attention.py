"""Self-attention: queries, keys and values all come from one sequence.

Cheng et al., "Long Short-Term Memory-Networks for Machine Reading", 2016 (https://arxiv.org/abs/1601.06733), there
"intra-attention"; in the form of Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762), sections 3.2.1 and 3.2.3.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant


@variant("self", embed_dim=12, scale=0.5)
class SelfAttention(ProjectedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). One head unless told otherwise."""

    def __init__(self, embed_dim: int, num_heads: int = 1, **options: Unpack[GeneralOptions]) -> None:
        super().__init__(embed_dim, num_heads, **options)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        return self.attend(x, x, x, mask, score_bias)
