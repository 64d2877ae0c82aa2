"""Document attention: several documents packed into one sequence, none of which sees another.

Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021 (https://arxiv.org/abs/2107.02027).
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.models.attention.options import KeyValueOption, ProjectionOptions, SinkOption, SoftcapOption
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.variant import variant
from edgeattn.spec import Causal, Full


class DocumentOptions(ProjectionOptions, KeyValueOption, SoftcapOption, SinkOption):
    """All but the kind of mask."""


@variant("document", embed_dim=12, num_heads=3)
class DocumentAttention(ProjectedAttention):
    """x (B, S, embed_dim), mask int64 (B, S) -> (B, S, embed_dim); i sees j when mask[i] == mask[j].

    `mask` holds the number of each position's document; negative is padding, seen by none. `causal` hides j > i.
    """

    def __init__(self, embed_dim: int, num_heads: int = 1, *, causal: bool = False, **options: Unpack[DocumentOptions]) -> None:
        super().__init__(embed_dim, num_heads, pattern=Causal() if causal else Full(), mask="document", **options)

    def forward(self, x: Tensor, mask: Tensor, score_bias: Tensor | None = None) -> Tensor:
        return self.attend(x, x, x, mask, score_bias)
