"""The truth in numpy: attention by its formula, in float64, with nothing skipped.

Runs on a device without torch and onnx. The capability probes compare a runtime with it; the tests compare it with
torch's own attention and with published implementations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.normalizers import Entmax15, Normalizer, Sigmoid, Sparsemax, TopK
from edgeattn.patterns import Alignment, Pattern
from edgeattn.spec import AttentionSpec

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Places:
    """`edgeattn.patterns.Places` in numpy."""

    lengths: tuple[int, int]
    prefix: Array | None = None

    @property
    def keys(self) -> Array:
        return np.arange(self.lengths[1])[None, :]

    def queries(self, alignment: Alignment = "upper_left") -> Array:
        queries, keys = self.lengths
        return np.arange(queries)[:, None] + (keys - queries if alignment == "lower_right" else 0)

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Array, columns: Array) -> Array:
        bits = np.array([[[entry == "1" for entry in row] for row in head] for head in table])
        return np.asarray(bits[:, rows, columns])


def visible(pattern: Pattern, queries: int, keys: int, prefix: Array | None = None) -> NDArray[np.bool_]:
    """Bool, (S, T) or broadcastable to (B, H, S, T): which query may see which key by the pattern alone."""
    at = _Places((queries, keys), None if prefix is None else np.asarray(prefix)[:, None, None, None])
    shown = np.asarray(pattern.sees(at))
    return np.broadcast_to(shown, np.broadcast_shapes(shown.shape, (queries, keys)))


def softmax_attention(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    mask: Array | None = None,
    bias: Array | None = None,
    sink: Array | None = None,
    score_weight: Array | None = None,
    prefix: Array | None = None,
) -> NDArray[np.float64]:
    """q (B, H, S, D), k (B, K, T, D), v (B, K, T, E), the rest as the spec names them -> (B, H, S, E)."""
    v = np.repeat(np.asarray(v, dtype=np.float64), spec.group, axis=1)
    scores = visible_scores(q, k, spec, mask, bias, score_weight, prefix)
    if sink is not None:
        column = np.broadcast_to(np.asarray(sink, dtype=np.float64)[:, None, None], (*scores.shape[:3], 1))
        return np.asarray(weigh(np.concatenate([scores, column], axis=-1), spec.normalizer)[..., :-1] @ v)
    return np.asarray(weigh(scores, spec.normalizer) @ v)


def visible_scores(
    q: Array,
    k: Array,
    spec: AttentionSpec,
    mask: Array | None = None,
    bias: Array | None = None,
    score_weight: Array | None = None,
    prefix: Array | None = None,
) -> NDArray[np.float64]:
    """(B, H, S, T): the scores before they are normalized; -inf where a query does not see a key."""
    q, k = (np.asarray(x, dtype=np.float64) for x in (q, k))
    scores = _scores(q, np.repeat(k, spec.group, axis=1), spec, score_weight)
    if bias is not None:
        scores = scores + bias
    shown = np.broadcast_to(visible(spec.pattern, q.shape[2], k.shape[2], prefix), scores.shape)
    if mask is not None:
        shown = shown & _masked(spec, mask)
    return np.where(shown, scores, -np.inf)


def log_sum_exp(scores: Array) -> NDArray[np.float64]:
    """(..., T) -> (...): log of the sum of exp(score); -inf where every score is."""
    peak = scores.max(axis=-1, initial=-np.inf)
    finite = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(finite + np.log(np.exp(scores - finite[..., None]).sum(axis=-1)))


def weigh(scores: Array, normalizer: Normalizer) -> NDArray[np.float64]:
    """Weights of each row; -inf means hidden. A row that is hidden throughout gets zeros."""
    if isinstance(normalizer, Sigmoid):
        offset = -np.log(max(scores.shape[-1], 1)) if normalizer.offset is None else normalizer.offset
        return np.asarray(0.5 * (1 + np.tanh((scores + offset) / 2)))
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    scores = scores - np.where(np.isfinite(peak), peak, 0.0)
    if isinstance(normalizer, Sparsemax):
        return np.asarray(np.maximum(scores - _threshold(scores, power=1.0), 0.0))
    if isinstance(normalizer, Entmax15):
        return np.asarray(np.maximum(scores / 2 - _threshold(scores / 2, power=2.0), 0.0) ** 2)
    if isinstance(normalizer, TopK):
        least = np.sort(scores, axis=-1)[..., -normalizer.k :][..., :1]
        scores = np.where(scores >= least, scores, -np.inf)
    weights: NDArray[np.float64] = np.exp(scores)
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1.0))


def _scores(q: Array, k: Array, spec: AttentionSpec, score_weight: Array | None) -> Array:
    if spec.score == "additive":
        assert score_weight is not None
        weight = np.asarray(score_weight, dtype=np.float64)[:, None, :]
        rows = [np.tanh(q[:, :, i, None, :] + k) * weight for i in range(q.shape[2])]  # one query at a time: memory
        scores = spec.scale * np.stack([row.sum(axis=-1) for row in rows], axis=2)
    else:
        scores = spec.scale * (q @ k.swapaxes(-1, -2))
    return scores if spec.softcap is None else spec.softcap * np.tanh(scores / spec.softcap)


def _masked(spec: AttentionSpec, mask: Array) -> Array:
    """Bool, broadcastable to (B, H, S, T)."""
    if spec.mask == "document":
        return np.asarray((mask[:, None, :, None] == mask[:, None, None, :]) & (mask >= 0)[:, None, None, :])
    return mask[:, None, None, :] if spec.mask == "key_padding" else mask


def _threshold(scores: Array, power: float) -> Array:
    """The tau with sum(max(score - tau, 0)^power) = 1, by bisection; the highest score is 0, so -1 <= tau <= 0."""
    low, high = np.full((*scores.shape[:-1], 1), -1.0), np.zeros((*scores.shape[:-1], 1))
    for _ in range(60):
        middle = (low + high) / 2
        over = (np.maximum(scores - middle, 0.0) ** power).sum(axis=-1, keepdims=True) >= 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return low
