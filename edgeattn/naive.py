"""The truth in numpy: softmax attention by its formula, in float64, with nothing skipped.

Runs on a device without torch and onnx. The capability probes compare a runtime with it; the tests compare it with
torch's scaled_dot_product_attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.spec import AttentionSpec, Causal, Full, Pattern

Array = NDArray[Any]


def visible(pattern: Pattern, queries: int, keys: int) -> NDArray[np.bool_]:
    """(S, T) bool: which query may see which key by the pattern alone."""
    if isinstance(pattern, Full):
        return np.ones((queries, keys), dtype=bool)
    offset = keys - queries if pattern.alignment == "lower_right" else 0
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None] - offset
    if isinstance(pattern, Causal):
        return distance <= 0
    shown = np.ones_like(distance, dtype=bool)
    if pattern.left is not None:
        shown &= distance >= -pattern.left
    if pattern.right is not None:
        shown &= distance <= pattern.right
    return shown


def softmax_attention(
    q: Array, k: Array, v: Array, spec: AttentionSpec, mask: Array | None = None, bias: Array | None = None
) -> NDArray[np.float64]:
    """q (B, H, S, D), k (B, K, T, D), v (B, K, T, E), mask and bias as the spec names them -> (B, H, S, E)."""
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, spec.group, axis=1) for x in (k, v))
    scores = spec.scale * (q @ k.swapaxes(-1, -2))
    if spec.softcap is not None:
        scores = spec.softcap * np.tanh(scores / spec.softcap)
    if bias is not None:
        scores = scores + bias
    shown = visible(spec.pattern, q.shape[2], k.shape[2])
    if mask is not None:
        shown = shown & (mask[:, None, None, :] if spec.mask == "key_padding" else mask)
    scores = np.where(shown, scores, -np.inf)
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray((weights / np.where(total > 0, total, 1.0)) @ v)
