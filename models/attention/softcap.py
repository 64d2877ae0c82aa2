"""Attention with capped scores: cap * tanh(score / cap) keeps every score within -cap..cap, before mask and softmax.

Gemma Team, "Gemma 2", 2024 (https://arxiv.org/abs/2408.00118), section 2, with a cap of 50.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import KeyValueOption, MaskOption, ProjectionOptions, SinkOption
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Full, Pattern


class CappedOptions(ProjectionOptions, KeyValueOption, MaskOption, SinkOption):
    """All but the cap."""


@variant("softcap", embed_dim=12, num_heads=3, softcap=0.5)
class SoftcapAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim)."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        softcap: float = 50.0,
        pattern: Pattern = Full(),  # noqa: B008 - frozen and without fields
        **options: Unpack[CappedOptions],
    ) -> None:
        super().__init__(embed_dim, num_heads, softcap=softcap, pattern=pattern, **options)
