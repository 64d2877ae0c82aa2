"""Attention with sink tokens: a causal window that never loses the first tokens of the sequence, so that streams stay stable.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023 (https://arxiv.org/abs/2309.17453). Here
positions are those of the sequence, not of the cache; the sink that is learned instead is the variant `sink`.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import GlobalLocal


@variant("sink_tokens", embed_dim=12, num_heads=4, num_kv_heads=2, left=2, tokens=2)
class SinkTokenAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees j <= i with i - j <= left or j < tokens."""

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, left: int, tokens: int = 4, **options: Unpack[SequenceOptions]
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=GlobalLocal(left, 0, tokens, causal=True), **options)
