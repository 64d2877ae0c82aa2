"""What the attentions of recurrent translation models share: one head that reads the context itself, without projections of
values or output.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.core import AttentionCore
from edgeattn.models.attention.options import CommonOptions, MaskOption, SinkOption, SoftcapOption
from edgeattn.spec import Score


class AlignmentOptions(CommonOptions, MaskOption, SoftcapOption, SinkOption):
    """Options beside the sizes."""


class AlignmentAttention(AttentionCore):
    """x (B, S, embed_dim), context (B, T, context_dim) -> (B, S, context_dim): the context's mean by alignment.

    A subclass says in `align` what is compared. The scale is 1.
    """

    def __init__(
        self, embed_dim: int, context_dim: int, head_dim: int, *, score: Score = "dot", **options: Unpack[AlignmentOptions]
    ) -> None:
        super().__init__(1, head_dim, value_head_dim=context_dim, scale=1.0, score=score, **options)
        self.sizes = {"x": embed_dim, "context": context_dim}

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        for name, given in (("x", x), ("context", context)):
            if given.dim() != 3 or given.shape[2] != self.sizes[name]:
                raise UsageError(f"{name} must be (batch, length, {self.sizes[name]}), got sizes {tuple(given.shape)}")
        q, k, v = (part.unsqueeze(1) for part in (*self.align(x, context), context))
        return self.core(q, k, v, mask, score_bias).squeeze(1)

    def align(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, S, embed_dim), context (B, T, context_dim) -> queries (B, S, head_dim), keys (B, T, head_dim)."""
        raise NotImplementedError
