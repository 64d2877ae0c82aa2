"""The formula of softmax attention in plain torch: the truth that every variant and every runtime is held to.

Letters: B batch, H query heads, K key/value heads, S query length, T key length, D head size, E value head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeattn.spec import AttentionSpec, Causal, Full, Pattern


def visible(pattern: Pattern, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """(S, T) bool: which query may see which key by the pattern alone. Works with symbolic sizes."""
    if isinstance(pattern, Full):
        return torch.ones(queries, keys, dtype=torch.bool, device=device)
    offset = keys - queries if pattern.alignment == "lower_right" else 0
    distance = torch.arange(keys, device=device)[None, :] - torch.arange(queries, device=device)[:, None] - offset
    if isinstance(pattern, Causal):
        return distance <= 0
    shown = torch.ones_like(distance, dtype=torch.bool)
    if pattern.left is not None:
        shown = shown & (distance >= -pattern.left)
    if pattern.right is not None:
        shown = shown & (distance <= pattern.right)
    return shown


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """softmax(softcap(scale * q k^T) + bias, over the visible keys) v; a query that sees no key gives zeros.

    q (B, H, S, D), k (B, K, T, D), v (B, K, T, E) -> (B, H, S, E); mask and bias as the spec names them.
    """
    k, v = (x.repeat_interleave(spec.group, dim=1) for x in (k, v))
    scores = spec.scale * (q @ k.transpose(-1, -2))
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if bias is not None:
        scores = scores + bias
    shown = visible(spec.pattern, q.shape[2], k.shape[2], q.device)
    if mask is not None:
        shown = shown & (mask[:, None, None, :] if spec.mask == "key_padding" else mask)
    scores = scores.masked_fill(~shown, -torch.inf)
    # A softmax over nothing but -inf is NaN, and so is its gradient: such rows are taken out before, not repaired after.
    blind = (scores == -torch.inf).all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0)
    return weights @ v
