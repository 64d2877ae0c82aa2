"""Luong's dot attention: states of two sequences compared as they are, x^T context, without a scale.

Luong et al., "Effective Approaches to Attention-based Neural Machine Translation", 2015 (https://arxiv.org/abs/1508.04025),
section 3.1, score "dot"; what the paper does with the result, tanh(W [context; x]), is left to the model.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.alignment import AlignmentAttention, AlignmentOptions
from edgeattn.models.variant import variant


@variant("luong_dot", embed_dim=5, mask="key_padding")
class LuongDotAttention(AlignmentAttention):
    """x (B, S, embed_dim), context (B, T, embed_dim) -> (B, S, embed_dim). It has no parameters."""

    def __init__(self, embed_dim: int, **options: Unpack[AlignmentOptions]) -> None:
        super().__init__(embed_dim, embed_dim, embed_dim, **options)

    def align(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return x, context
