"""Global and local attention: a sliding window, and a few global tokens in front, which see all and are seen by all.

Beltagy et al., "Longformer", 2020 (https://arxiv.org/abs/2004.05150), section 3.1, with one set of projections for both;
Ainslie et al., "ETC", 2020 (https://arxiv.org/abs/2004.08483), for global tokens in front.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import GlobalLocal


@variant("global_local", embed_dim=12, num_heads=3, left=1, right=2, tokens=2)
class GlobalLocalAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); i sees j when -left <= j - i <= right, i < tokens or j < tokens."""

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, left: int, right: int, tokens: int, **options: Unpack[SequenceOptions]
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=GlobalLocal(left, right, tokens), **options)
