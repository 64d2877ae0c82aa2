"""What most variants share: x -> q, k, v by linear maps, heads split, one attention core, heads joined, a linear map out.

A variant states only what is different about it: how many key/value heads, which pattern, where the keys come from.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.attention.core import AttentionCore
from edgeattn.models.attention.options import CoreOptions


class ProjectedAttention(AttentionCore):
    """q, k, v and output projections around one attention core. Shapes: (B, S, embed_dim) -> (B, S, embed_dim).

    `attend` is `project`, `core` and `join` in turn; a subclass overrides the one that it changes.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        head_dim: int = 0,
        bias: bool = True,
        **options: Unpack[CoreOptions],
    ) -> None:
        super().__init__(num_heads, head_dim or even_share(embed_dim, num_heads), **options)
        spec, context_dim = self.spec, embed_dim if context_dim is None else context_dim
        self.q_proj = nn.Linear(embed_dim, spec.q_heads * spec.head_dim, bias=bias)
        self.k_proj = nn.Linear(context_dim, spec.kv_heads * spec.head_dim, bias=bias)
        self.v_proj = nn.Linear(context_dim, spec.kv_heads * spec.value_head_dim, bias=bias)
        self.out_proj = nn.Linear(spec.q_heads * spec.value_head_dim, embed_dim, bias=bias)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """query (B, S, embed_dim), key and value (B, T, context_dim) -> (B, S, embed_dim)."""
        return self.join(self.core(*self.project(query, key, value), mask, score_bias, prefix))

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences as `attend` takes them -> q (B, H, S, D), k (B, K, T, D), v (B, K, T, E)."""
        return (
            _split(self.q_proj, "query", query, self.spec.q_heads),
            _split(self.k_proj, "key", key, self.spec.kv_heads),
            _split(self.v_proj, "value", value, self.spec.kv_heads),
        )

    def join(self, context: Tensor) -> Tensor:
        """(B, H, S, E) -> (B, S, embed_dim)."""
        out: Tensor = self.out_proj(context.transpose(1, 2).flatten(2))
        return out


def _split(projection: nn.Linear, name: str, x: Tensor, heads: int) -> Tensor:
    """(B, S, C) -> (B, heads, S, size of a head)."""
    if x.dim() != 3 or x.shape[2] != projection.in_features:
        raise UsageError(f"{name} must be (batch, length, {projection.in_features}), got sizes {tuple(x.shape)}")
    sizes = (heads, projection.out_features // heads)
    split: Tensor = projection(x).unflatten(-1, sizes)
    return split.transpose(1, 2)


def even_share(embed_dim: int, num_heads: int) -> int:
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise UsageError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads}), or head_dim be given")
    return embed_dim // num_heads
