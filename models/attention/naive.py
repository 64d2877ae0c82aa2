"""The formula of attention in plain torch: the truth that every variant and every runtime is held to.

Letters: B batch, H query heads, K key/value heads, S query length, T key length, D head size, E value head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeattn.normalizers import Entmax15, Normalizer, Sigmoid, Sparsemax, TopK
from edgeattn.patterns import Alignment, Pattern
from edgeattn.spec import AttentionSpec


@dataclass(frozen=True, slots=True)
class _Places:
    """`edgeattn.patterns.Places` in torch; works with symbolic sizes."""

    lengths: tuple[int, int]
    prefix: Tensor | None
    device: torch.device | None

    @property
    def keys(self) -> Tensor:
        return torch.arange(self.lengths[1], device=self.device)[None, :]

    def queries(self, alignment: Alignment = "upper_left") -> Tensor:
        queries, keys = self.lengths
        rows = torch.arange(queries, device=self.device)[:, None]
        return rows + (keys - queries) if alignment == "lower_right" else rows

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Tensor, columns: Tensor) -> Tensor:
        bits = torch.tensor([[[entry == "1" for entry in row] for row in head] for head in table], device=self.device)
        return bits[:, rows, columns]


def visible(
    pattern: Pattern, queries: int, keys: int, device: torch.device | None = None, prefix: Tensor | None = None
) -> Tensor:
    """Bool, (S, T) or broadcastable to (B, H, S, T): which query may see which key by the pattern alone."""
    at = _Places((queries, keys), None if prefix is None else prefix[:, None, None, None], device)
    shown: Tensor = pattern.sees(at)
    return shown.expand(*shown.shape[:-2], queries, keys)


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    sink: Tensor | None = None,
    score_weight: Tensor | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """normalizer(softcap(score(q, k)) + bias, over the visible keys) v; a query that sees no key gives zeros.

    q (B, H, S, D), k (B, K, T, D), v (B, K, T, E) -> (B, H, S, E); the rest as the spec names them.
    """
    return weights(q, k, spec, mask, bias, sink, score_weight, prefix) @ v.repeat_interleave(spec.group, dim=1)


def weights(
    q: Tensor,
    k: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    sink: Tensor | None = None,
    score_weight: Tensor | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """(B, H, S, T): how much of each value a query takes; 0 where it does not see the key."""
    scores = visible_scores(q, k, spec, mask, bias, score_weight, prefix)
    if sink is not None:
        column = sink[:, None, None].expand(*scores.shape[:3], 1)
        return weigh(torch.cat([scores, column], dim=-1), spec.normalizer)[..., :-1]
    return weigh(scores, spec.normalizer)


def visible_scores(
    q: Tensor,
    k: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    score_weight: Tensor | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """(B, H, S, T): the scores before they are normalized; -inf where a query does not see a key."""
    scores = _scores(q, k.repeat_interleave(spec.group, dim=1), spec, score_weight)
    if bias is not None:
        scores = scores + bias
    shown = visible(spec.pattern, q.shape[2], k.shape[2], q.device, prefix)
    if mask is not None:
        shown = shown & masked(spec, mask)
    return scores.masked_fill(~shown, -torch.inf)


def masked(spec: AttentionSpec, mask: Tensor) -> Tensor:
    """The mask as a bool, broadcastable to (B, H, S, T)."""
    if spec.mask == "document":
        return (mask[:, None, :, None] == mask[:, None, None, :]) & (mask >= 0)[:, None, None, :]
    return mask[:, None, None, :] if spec.mask == "key_padding" else mask


def weigh(scores: Tensor, normalizer: Normalizer) -> Tensor:
    """Weights of each row; -inf means hidden. A row that is hidden throughout gets zeros, and gradients of zero."""
    if isinstance(normalizer, Sigmoid):
        if normalizer.offset is not None:
            return torch.sigmoid(scores + normalizer.offset)
        # of no axes, so it takes the dtype of the scores, and yet is not rounded to less than they hold
        keys = torch.ones(scores.shape[-1], dtype=torch.float64, device=scores.device).sum()
        return torch.sigmoid(scores - keys.log())
    # A softmax over nothing but -inf is NaN, and so is its gradient: such rows are taken out before, not repaired after.
    blind = (scores == -torch.inf).all(dim=-1, keepdim=True)
    scores = scores.masked_fill(blind, 0.0)
    if isinstance(normalizer, Sparsemax | Entmax15):
        weights = _sparse(scores, normalizer)
    else:
        if isinstance(normalizer, TopK):
            least = scores.topk(min(normalizer.k, scores.shape[-1]), dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        weights = torch.softmax(scores, dim=-1)
    return weights.masked_fill(blind, 0.0)


def _scores(q: Tensor, k: Tensor, spec: AttentionSpec, score_weight: Tensor | None) -> Tensor:
    if spec.score == "additive":
        assert score_weight is not None
        together = torch.tanh(q.unsqueeze(3) + k.unsqueeze(2))
        scores = spec.scale * (together @ score_weight[:, None, :, None]).squeeze(-1)
    else:
        scores = spec.scale * (q @ k.transpose(-1, -2))
    return scores if spec.softcap is None else spec.softcap * torch.tanh(scores / spec.softcap)


def _sparse(scores: Tensor, normalizer: Sparsemax | Entmax15) -> Tensor:
    """max(score - tau, 0)^power by sorting: of the ranks whose own threshold lies below their score, the last counts.

    The highest score is 0, so no tau is below -1, and raising lower scores to -2 changes nothing but keeps them finite.
    """
    power = 2 if isinstance(normalizer, Entmax15) else 1
    scores = scores / power
    scores = (scores - scores.amax(dim=-1, keepdim=True)).clamp_min(-2.0)
    ordered = scores.sort(dim=-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    mean = ordered.cumsum(dim=-1) / rank
    if power == 1:
        tau = mean - 1 / rank
    else:
        spread = ordered.square().cumsum(dim=-1) - rank * mean.square()
        room = ((1 - spread) / rank).clamp_min(0.0)
        # sqrt has no gradient at 0, and 0 * inf is NaN: the zeros go around it
        tau = mean - torch.where(room > 0, room, 1.0).sqrt() * (room > 0)
    last = (tau <= ordered).sum(dim=-1, keepdim=True) - 1
    weights = (scores - tau.gather(-1, last)).clamp_min(0.0)
    return weights.square() if power == 2 else weights
