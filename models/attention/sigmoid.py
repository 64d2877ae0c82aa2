"""Sigmoid attention: each key is weighed by itself, by a sigmoid of its score, so weights need not sum to 1.

Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", 2024 (https://arxiv.org/abs/2409.04431).
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Sigmoid


@variant("sigmoid", embed_dim=12, num_heads=3)
class SigmoidAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). `offset` is added to every score; None, the default, means -log(T)."""

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, offset: float | None = None, **options: Unpack[SequenceOptions]
    ) -> None:
        super().__init__(embed_dim, num_heads, normalizer=Sigmoid(offset), **options)
