"""Gated attention: a sigmoid of x decides how much of each head's context passes on.

Qiu et al., "Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free", 2025
(https://arxiv.org/abs/2505.06708), the gate after the attention (there G1); used in Qwen3-Next.
"""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from edgeattn.fields import check_one_of
from edgeattn.models.attention.options import GeneralOptions
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.positions.base import Positions
from edgeattn.models.variant import variant

Gate = Literal["elementwise", "headwise"]


@variant("gated", embed_dim=12, num_heads=3)
class GatedAttention(PositionedAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim). One gate for each number of a head ("elementwise"), or one per head."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        gate: Gate = "elementwise",
        positions: Positions | None = None,
        causal: bool = False,
        **options: Unpack[GeneralOptions],
    ) -> None:
        check_one_of("gate", gate, get_args(Gate))
        super().__init__(embed_dim, num_heads, positions=positions, causal=causal, **options)
        self.gates = self.spec.value_head_dim if gate == "elementwise" else 1
        self.gate_proj = nn.Linear(embed_dim, self.spec.q_heads * self.gates, bias=self.q_proj.bias is not None)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        x = self.positions.embed(x)
        context = self.core(*self.project(x, x, x), mask, score_bias)
        gate = self.gate_proj(x).unflatten(-1, (self.spec.q_heads, self.gates)).transpose(1, 2)
        return self.join(context * torch.sigmoid(gate))
