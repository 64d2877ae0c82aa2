"""Differential attention: what a second attention sees is taken off the first, so that common noise cancels.

Ye et al., "Differential Transformer", 2024 (https://arxiv.org/abs/2410.05258):
(softmax(q1 k1^T / sqrt(D)) - lambda * softmax(q2 k2^T / sqrt(D))) v, then a norm for each head. Two cores, one value.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from edgeattn.fields import check_int
from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.attention.projected import even_share
from edgeattn.models.positions.base import Positions
from edgeattn.models.variant import variant


@variant("differential", embed_dim=16, num_heads=2)
class DifferentialAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim).

    A head has two queries and two keys of `head_dim` (0: embed_dim / num_heads / 2, which costs what plain attention does)
    and a value of `value_head_dim` (0: twice head_dim). `layer`, counted from 1, sets where lambda starts.
    `spec` is that of each core; q_proj and k_proj belong to the first, q2_proj and k2_proj to the second.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        layer: int = 1,
        eps: float = 1e-5,
        positions: Positions | None = None,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        check_int("layer", layer)
        options["head_dim"] = head_dim = options.get("head_dim") or even_share(embed_dim, 2 * num_heads)
        options["value_head_dim"] = options.get("value_head_dim") or 2 * head_dim
        super().__init__(embed_dim, num_heads, positions=positions, causal=causal, **options)
        self.q2_proj, self.k2_proj = (
            nn.Linear(p.in_features, p.out_features, bias=p.bias is not None) for p in (self.q_proj, self.k_proj)
        )
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(0.1 * torch.randn(head_dim)) for _ in range(4)
        )
        self.norm = nn.RMSNorm(self.spec.value_head_dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        x = self.positions.embed(x)
        q, k, v = self.project(x, x, x)
        q2, k2 = (p(x).unflatten(-1, (-1, self.spec.head_dim)).transpose(1, 2) for p in (self.q2_proj, self.k2_proj))
        signal = self.core(q, k, v, mask, score_bias)
        noise = self.core(q2, k2, v, mask, score_bias)
        return self.join((1 - self.lambda_init) * self.norm(signal - self.weight() * noise))

    def weight(self) -> Tensor:
        """The lambda of the paper, a scalar: exp(q1 . k1) - exp(q2 . k2) + where it starts."""
        first = (self.lambda_q1 * self.lambda_k1).sum().exp()
        second = (self.lambda_q2 * self.lambda_k2).sum().exp()
        return first - second + self.lambda_init
