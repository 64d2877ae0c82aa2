"""Multi-head latent attention: keys and values are read from one small vector per position, which is all a cache would hold.

DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model", 2024
(https://arxiv.org/abs/2405.04434), section 2.1. Positions go into extra numbers beside each head's own: queries have them
for each head, keys once for all heads, so that the small vector itself stays free of positions.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.fields import check_int
from edgeattn.models.attention.core import AttentionCore
from edgeattn.models.attention.options import CommonOptions, MaskOption, SinkOption, SoftcapOption
from edgeattn.models.positions.frequencies import Scaling
from edgeattn.models.positions.rope import RotaryPositions, Style
from edgeattn.models.variant import variant
from edgeattn.spec import Causal, Full


class LatentOptions(CommonOptions, MaskOption, SoftcapOption, SinkOption):
    """Options that latent attention shares with others."""


@variant("latent", embed_dim=16, num_heads=2, head_dim=6, kv_rank=5, q_rank=7, rope_dim=4, value_head_dim=3)
class LatentAttention(AttentionCore):
    """x (B, S, embed_dim) -> (B, S, embed_dim).

    Args:
        embed_dim: size of x.
        num_heads: H, of queries, keys and values alike.
        head_dim: of a query and key head without its positions.
        kv_rank: size of the small vector that keys and values are read from.
        q_rank: the same for queries; 0 projects them from x.
        rope_dim: how many numbers with positions are added to each query and key head.
        value_head_dim: 0 means head_dim.
        scale: 0 means 1 / sqrt(head_dim + rope_dim).
        base: of the rotary positions, as `style` and `scaling`: see `edgeattn.models.positions.rope.RotaryPositions`.
        causal: whether a position sees only itself and what came before.
        bias: whether the maps from x and to the output have a bias.
        eps: of the two norms.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int,
        kv_rank: int,
        q_rank: int = 0,
        rope_dim: int,
        value_head_dim: int = 0,
        scale: float = 0.0,
        base: float = 10000.0,
        style: Style = "interleaved",
        scaling: Scaling | None = None,
        causal: bool = False,
        bias: bool = False,
        eps: float = 1e-6,
        **options: Unpack[LatentOptions],
    ) -> None:
        for name, size in (("embed_dim", embed_dim), ("head_dim", head_dim), ("kv_rank", kv_rank)):
            check_int(name, size)
        check_int("q_rank", q_rank, least=0)
        value_head_dim = value_head_dim or head_dim
        pattern = Causal() if causal else Full()
        super().__init__(num_heads, head_dim + rope_dim, value_head_dim=value_head_dim, scale=scale, pattern=pattern, **options)
        self.sizes = (head_dim, rope_dim, value_head_dim, kv_rank)
        self.positions = RotaryPositions(rope_dim, base=base, style=style, scaling=scaling)
        queries = num_heads * (head_dim + rope_dim)
        if q_rank:
            self.q_down: nn.Module = nn.Sequential(nn.Linear(embed_dim, q_rank, bias=bias), nn.RMSNorm(q_rank, eps=eps))
        else:
            self.q_down = nn.Identity()
        self.q_up = nn.Linear(q_rank or embed_dim, queries, bias=False)
        self.kv_down = nn.Linear(embed_dim, kv_rank + rope_dim, bias=bias)
        self.kv_norm = nn.RMSNorm(kv_rank, eps=eps)
        self.kv_up = nn.Linear(kv_rank, num_heads * (head_dim + value_head_dim), bias=False)
        self.out_proj = nn.Linear(num_heads * value_head_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None) -> Tensor:
        context = self.core(*self.project(x), mask, score_bias)
        out: Tensor = self.out_proj(context.transpose(1, 2).flatten(2))
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, embed_dim) -> q and k (B, H, S, head_dim + rope_dim), v (B, H, S, value_head_dim)."""
        if x.dim() != 3 or x.shape[2] != self.kv_down.in_features:
            raise UsageError(f"x must be (batch, length, {self.kv_down.in_features}), got sizes {tuple(x.shape)}")
        head_dim, rope_dim, value_head_dim, kv_rank = self.sizes
        q, q_rope = torch.split(self._heads(self.q_up(self.q_down(x))), [head_dim, rope_dim], dim=-1)
        latent, k_rope = torch.split(self.kv_down(x), [kv_rank, rope_dim], dim=-1)
        k, v = torch.split(self._heads(self.kv_up(self.kv_norm(latent))), [head_dim, value_head_dim], dim=-1)
        q_rope, k_rope = self.positions.rotate(q_rope, k_rope[:, None])
        k_rope = k_rope.expand(-1, self.spec.q_heads, -1, -1)
        return torch.cat([q, q_rope], dim=-1), torch.cat([k, k_rope], dim=-1), v

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H * D) -> (B, H, S, D)."""
        return torch.unflatten(x, -1, (self.spec.q_heads, -1)).transpose(1, 2)
