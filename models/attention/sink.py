"""Attention with a learned sink: each head has one more score in its softmax, whose share goes nowhere.

OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025 (https://arxiv.org/abs/2508.10925); a sink fixed at 0 is
the "softmax off by one". Sinks that are tokens of the sequence are the variant `sink_tokens`.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import KeyValueOption, MaskOption, ProjectionOptions, SoftcapOption
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Full, Pattern


class LearnedSinkOptions(ProjectionOptions, KeyValueOption, MaskOption, SoftcapOption):
    """All but the sink."""


@variant("sink", embed_dim=12, num_heads=4, num_kv_heads=2)
class LearnedSinkAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). The parameter `sink` (H,) is learned; it starts near 0."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        pattern: Pattern = Full(),  # noqa: B008 - frozen and without fields
        **options: Unpack[LearnedSinkOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=pattern, sink=True, **options)
