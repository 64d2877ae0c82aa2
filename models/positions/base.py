"""The three places where a position scheme can enter an attention. Each scheme overrides one of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """A position scheme that does nothing. Position i is the i-th of the sequence, for queries as for keys."""

    biased = False
    """Whether `bias` gives a bias, so that the attention's spec must have one."""

    def embed(self, x: Tensor) -> Tensor:
        """x (B, S, C), before it is projected -> (B, S, C)."""
        return x

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q (B, H, S, D), k (B, K, S, D) of one sequence, before their product is taken -> the same shapes."""
        return q, k

    def bias(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """q (B, H, S, D), k (B, K, T, D) -> what to add to scale * q k^T: (1 or B, 1 or H, S, T).

        Raises:
            NotImplementedError: this scheme is not `biased`.
        """
        raise NotImplementedError(f"{type(self).__name__} adds nothing to the scores")


def distances(q: Tensor, k: Tensor) -> Tensor:
    """q (B, H, S, D), k (B, K, T, D) -> int64 (S, T): how far key j lies behind query i, j - i."""
    queries, keys = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
    return keys[None, :] - queries[:, None]


def clipped_distances(q: Tensor, k: Tensor, reach: int) -> Tensor:
    """As `distances`, counted from the furthest key before the query: int64 (S, T), from 0 to 2 * reach."""
    return distances(q, k).clamp(-reach, reach) + reach
