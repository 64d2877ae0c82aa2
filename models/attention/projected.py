"""What most variants share: x -> q, k, v by linear maps, heads split, one attention core, heads joined, a linear map out.

A variant states only what is different about it: how many key/value heads, which pattern, where the keys come from.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.attention.naive import softmax_attention
from edgeattn.models.functional import attention
from edgeattn.spec import AttentionSpec, Full, MaskKind, Pattern, SoftmaxAttention


class Options(TypedDict, total=False):
    """Options that every variant with projections takes, beside its own."""

    head_dim: int
    """Size of a query and key head; 0, the default, means embed_dim / num_heads."""
    value_head_dim: int
    """Size of a value head; 0, the default, means head_dim."""
    scale: float
    """Factor of q k^T; 0, the default, means 1 / sqrt(head_dim)."""
    softcap: float | None
    """cap * tanh(score / cap) before the softmax; None, the default, leaves scores as they are."""
    mask: MaskKind
    """Which `mask` forward takes: "none" (default), "key_padding" (B, T), "dense" (broadcastable to (B, H, S, T)).
    Bool, True takes part."""
    score_bias: bool
    """Whether forward takes a float `score_bias`, broadcastable to (B, H, S, T), added to the scores. Default False."""
    bias: bool
    """Whether the four linear maps have a bias. Default True."""


class ProjectedAttention(nn.Module):
    """q, k, v and output projections around one attention core. Shapes: (B, S, embed_dim) -> (B, S, embed_dim)."""

    naive = staticmethod(softmax_attention)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        context_dim: int | None = None,
        pattern: Pattern = Full(),  # noqa: B008 - frozen and without fields
        head_dim: int = 0,
        value_head_dim: int = 0,
        scale: float = 0.0,
        softcap: float | None = None,
        mask: MaskKind = "none",
        score_bias: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.spec: AttentionSpec = SoftmaxAttention(
            q_heads=num_heads,
            kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=head_dim or _even_share(embed_dim, num_heads),
            value_head_dim=value_head_dim,
            scale=scale,
            pattern=pattern,
            softcap=softcap,
            mask=mask,
            bias=score_bias,
        )
        spec, context_dim = self.spec, embed_dim if context_dim is None else context_dim
        self.q_proj = nn.Linear(embed_dim, spec.q_heads * spec.head_dim, bias=bias)
        self.k_proj = nn.Linear(context_dim, spec.kv_heads * spec.head_dim, bias=bias)
        self.v_proj = nn.Linear(context_dim, spec.kv_heads * spec.value_head_dim, bias=bias)
        self.out_proj = nn.Linear(spec.q_heads * spec.value_head_dim, embed_dim, bias=bias)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None
    ) -> Tensor:
        """query (B, S, embed_dim), key and value (B, T, context_dim) -> (B, S, embed_dim)."""
        q = _split(self.q_proj, "query", query, self.spec.q_heads)
        k = _split(self.k_proj, "key", key, self.spec.kv_heads)
        v = _split(self.v_proj, "value", value, self.spec.kv_heads)
        context = attention(q, k, v, self.spec, mask, score_bias)
        out: Tensor = self.out_proj(context.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        return self.spec.summary()


def _split(projection: nn.Linear, name: str, x: Tensor, heads: int) -> Tensor:
    """(B, S, C) -> (B, heads, S, size of a head)."""
    if x.dim() != 3 or x.shape[2] != projection.in_features:
        raise UsageError(f"{name} must be (batch, length, {projection.in_features}), got sizes {tuple(x.shape)}")
    sizes = (heads, projection.out_features // heads)
    split: Tensor = projection(x).unflatten(-1, sizes)
    return split.transpose(1, 2)


def _even_share(embed_dim: int, num_heads: int) -> int:
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise UsageError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads}), or head_dim be given")
    return embed_dim // num_heads
