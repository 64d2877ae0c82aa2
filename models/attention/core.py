"""What every variant has: a spec, the parameters that the core itself learns, and one call of attention."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.attention.naive import softmax_attention
from edgeattn.models.attention.options import FieldOptions
from edgeattn.models.functional import attention
from edgeattn.spec import AttentionSpec, SoftmaxAttention


class AttentionCore(nn.Module):
    """One attention core as a module. Subclasses make q, k and v, and take what comes out.

    Raises:
        SpecError: options that no attention can have together.
        UsageError: dropout outside 0 <= dropout < 1.
    """

    naive = staticmethod(softmax_attention)

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        num_kv_heads: int | None = None,
        score_bias: bool = False,
        dropout: float = 0.0,
        **fields: Unpack[FieldOptions],
    ) -> None:
        super().__init__()
        self.dropout = _checked(dropout)
        self.spec: AttentionSpec = SoftmaxAttention(
            q_heads=num_heads,
            kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=head_dim,
            bias=score_bias,
            **fields,
        )
        self.takes_bias = self.spec.bias  # of the caller: a subclass may have a bias of its own
        self.sink = nn.Parameter(0.02 * torch.randn(num_heads)) if self.spec.sink else None
        self.score_weight: nn.Parameter | None = None
        if self.spec.score == "additive":
            self.score_weight = nn.Parameter(torch.randn(num_heads, head_dim) / head_dim**0.5)

    def core(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """q (B, H, S, D), k (B, K, T, D), v (B, K, T, E), `prefix` (B,) -> (B, H, S, E). May be overridden."""
        dropout = self.dropout if self.training else 0.0
        return attention(
            q,
            k,
            v,
            self.spec,
            mask,
            score_bias,
            sink=self.sink,
            score_weight=self.score_weight,
            prefix=prefix,
            dropout=dropout,
        )

    def extra_repr(self) -> str:
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{self.spec.summary()}{dropout}"


def _checked(dropout: float) -> float:
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UsageError(f"dropout must be a number with 0 <= dropout < 1, got {dropout!r}")
    return float(dropout)
