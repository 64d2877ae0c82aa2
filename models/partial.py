"""Partial attention: attention over some of the keys with the log-sum-exp of its scores, and the merge of two such parts.

The base of blockwise and distributed attention: keys may be cut anywhere, each part attended on its own, and the parts
merged in any order (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018,
https://arxiv.org/abs/1805.02867; Dao et al., "FlashAttention", 2022, https://arxiv.org/abs/2205.14135).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.naive import visible_scores, weigh
from edgeattn.models.functional import constant_json, prepared
from edgeattn.spec import AttentionSpec, from_json


def partial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    score_weight: Tensor | None = None,
    prefix: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over these keys alone, and how much they weigh against others.

    Arguments as those of `edgeattn.models.functional.attention`; `spec.lse` must be True.

    Returns:
        (B, H, S, E) and (B, H, S): the context, and the log of the sum of exp(score). A query that sees no key gives zeros
        and -inf.

    Raises:
        UsageError: the tensors do not fit the spec, or the spec is not one of partial attention.
    """
    if not spec.lse:
        raise UsageError("partial attention needs a spec with lse=True; `attention` takes the others")
    mask, bias = prepared(q, k, v, spec, {"mask": mask, "bias": bias, "score_weight": score_weight, "prefix": prefix})
    if torch.compiler.is_exporting():
        context, lse = partial_operator(q, k, v, mask, bias, score_weight, prefix, constant_json(spec))
        return context, lse
    return _formula(q, k, v, spec, mask, bias, score_weight, prefix)


def merge_partials(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two parts over different keys of the same queries as one.

    Each part, and the result, is what `partial_attention` returns: (B, H, S, E) and (B, H, S). Associative and commutative
    up to rounding; a part that saw no key (-inf) leaves the other as it is.
    """
    peak = torch.maximum(first[1], second[1])
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    shares = [torch.exp(lse - peak) for _, lse in (first, second)]
    total = shares[0] + shares[1]
    context = shares[0].unsqueeze(-1) * first[0] + shares[1].unsqueeze(-1) * second[0]
    seen = torch.where(total > 0, total, 1.0)
    return context / seen.unsqueeze(-1), torch.where(total > 0, peak + torch.log(seen), -torch.inf)


@torch.library.custom_op("edgeattn::partial_attention", mutates_args=())
def partial_operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    score_weight: Tensor | None,
    prefix: Tensor | None,
    spec: str,
) -> tuple[Tensor, Tensor]:
    """`torch.ops.edgeattn.partial_attention`: what `partial_attention` leaves in an exported program."""
    return _formula(q, k, v, from_json(spec), mask, bias, score_weight, prefix)


@partial_operator.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    score_weight: Tensor | None,
    prefix: Tensor | None,
    spec: str,
) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3])


def _formula(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, *more: Tensor | None) -> tuple[Tensor, Tensor]:
    """`more`: mask, bias, score_weight and prefix."""
    scores = visible_scores(q, k, spec, *more)
    context = weigh(scores, spec.normalizer) @ v.repeat_interleave(spec.group, dim=1)
    blind = (scores == -torch.inf).all(dim=-1)
    lse = torch.logsumexp(scores.masked_fill(blind.unsqueeze(-1), 0.0), dim=-1)
    return context, lse.masked_fill(blind, -torch.inf)
