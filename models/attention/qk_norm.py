"""Query-key normalization: queries and keys get a fixed length, so that scores cannot grow without bound.

"l2": Henry et al., "Query-Key Normalization for Transformers", 2020 (https://arxiv.org/abs/2010.04245), unit length and
one learned factor instead of 1 / sqrt(D). "rms": root-mean-square norm of each head with learned weights, as in Qwen3 and
Gemma 3 (https://arxiv.org/abs/2505.09388, https://arxiv.org/abs/2503.19786; Gemma stores its weights minus 1).
"""

from __future__ import annotations

import math
from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from edgeattn.fields import check_int, check_one_of
from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.base import Positions
from edgeattn.models.variant import variant

Norm = Literal["rms", "l2"]


@variant("qk_norm", embed_dim=12, num_heads=4, num_kv_heads=2)
class QueryKeyNormAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); normalized before `positions` turn q and k.

    `usual_length` is for "l2": the factor starts at log2(L^2 - L), where the paper takes as L the 97.5th percentile of
    the lengths to train with.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        norm: Norm = "rms",
        eps: float = 1e-6,
        usual_length: int = 128,
        positions: Positions | None = None,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        check_one_of("norm", norm, get_args(Norm))
        check_int("usual_length", usual_length, least=2)
        if norm == "l2":
            options.setdefault("scale", 1.0)
        super().__init__(embed_dim, num_heads, positions=positions, causal=causal, **options)
        if norm == "rms":
            self.q_norm: nn.Module = nn.RMSNorm(self.spec.head_dim, eps=eps)
            self.k_norm: nn.Module = nn.RMSNorm(self.spec.head_dim, eps=eps)
        else:
            self.q_norm = _UnitLength(eps, factor=math.log2(usual_length**2 - usual_length))
            self.k_norm = _UnitLength(eps)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences (B, S, embed_dim) -> q, k, v by heads, q and k normalized."""
        q, k, v = super().project(query, key, value)
        return self.q_norm(q), self.k_norm(k), v


class _UnitLength(nn.Module):
    """x (..., D) divided by its length, times a learned factor where there is one."""

    def __init__(self, eps: float, factor: float | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.factor = None if factor is None else nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=-1, eps=self.eps)
        return unit if self.factor is None else unit * self.factor
