"""Additive attention: a small network scores each pair, v^T tanh(W x + U context).

Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2014
(https://arxiv.org/abs/1409.0473), section 3.1 and appendix A.1.2.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from edgeattn.models.attention.alignment import AlignmentAttention, AlignmentOptions
from edgeattn.models.variant import variant


@variant("additive", embed_dim=12, context_dim=7, head_dim=5, mask="key_padding")
class AdditiveAttention(AlignmentAttention):
    """x (B, S, embed_dim), context (B, T, context_dim) -> (B, S, context_dim). `head_dim` is the size of the network."""

    def __init__(self, embed_dim: int, context_dim: int, head_dim: int, **options: Unpack[AlignmentOptions]) -> None:
        super().__init__(embed_dim, context_dim, head_dim, score="additive", **options)
        self.q_proj = nn.Linear(embed_dim, head_dim)
        self.k_proj = nn.Linear(context_dim, head_dim, bias=False)  # q_proj's bias serves the sum

    def align(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(context)
