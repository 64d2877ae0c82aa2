"""Fixed attention: causal, over the position's own block and the last `columns` positions of every block before.

Child et al., "Generating Long Sequences with Sparse Transformers", 2019 (https://arxiv.org/abs/1904.10509), section 4.3,
both heads' patterns merged; for text, where the last positions of a block learn to sum it up.
"""

from __future__ import annotations

from typing import Unpack

from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Fixed


@variant("fixed", embed_dim=12, num_heads=3, block=3)
class FixedAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); position i sees j <= i in its own block, or at the end of an earlier one."""

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, block: int, columns: int = 1, **options: Unpack[SequenceOptions]
    ) -> None:
        super().__init__(embed_dim, num_heads, pattern=Fixed(block, columns), **options)
