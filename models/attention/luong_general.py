"""Luong's general attention: states of two sequences compared through one matrix, x^T W context.

Luong et al., "Effective Approaches to Attention-based Neural Machine Translation", 2015 (https://arxiv.org/abs/1508.04025),
section 3.1, score "general"; what the paper does with the result, tanh(W [context; x]), is left to the model.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from edgeattn.models.attention.alignment import AlignmentAttention, AlignmentOptions
from edgeattn.models.variant import variant


@variant("luong_general", embed_dim=12, context_dim=7, mask="key_padding")
class LuongGeneralAttention(AlignmentAttention):
    """x (B, S, embed_dim), context (B, T, context_dim) -> (B, S, context_dim)."""

    def __init__(self, embed_dim: int, context_dim: int, **options: Unpack[AlignmentOptions]) -> None:
        super().__init__(embed_dim, context_dim, context_dim, **options)
        self.q_proj = nn.Linear(embed_dim, context_dim, bias=False)

    def align(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_proj(x), context
