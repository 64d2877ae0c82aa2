"""Prefix-LM attention: causal, but the first `prefix` positions, such as a prompt, are seen by all and see each other.

Raffel et al., "T5", 2019 (https://arxiv.org/abs/1910.10683), section 3.2.1; Liu et al., "Generating Wikipedia by
Summarizing Long Sequences", 2018 (https://arxiv.org/abs/1801.10198), for the idea.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant
from edgeattn.spec import PrefixLM


@variant("prefix_lm", embed_dim=12, num_heads=3)
class PrefixLMAttention(ProjectedAttention):
    """x (B, S, embed_dim), prefix int64 (B,) -> (B, S, embed_dim); position i sees j when j <= i or j < prefix."""

    def __init__(self, embed_dim: int, num_heads: int = 1, **options: Unpack[SequenceOptions]) -> None:
        super().__init__(embed_dim, num_heads, pattern=PrefixLM(), **options)

    def forward(self, x: Tensor, prefix: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        return self.attend(x, x, x, mask, score_bias, prefix)
