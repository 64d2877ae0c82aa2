"""ALiBi: the further a key lies from the query, the more is taken off its score, in each head at another rate.

Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation", 2021
(https://arxiv.org/abs/2108.12409). The paper's attention is causal; without a causal pattern the distance counts to both
sides alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeattn.fields import check_int
from edgeattn.models.positions.base import Positions, distances


class AlibiPositions(Positions):
    """Bias -slope(h) * |j - i|, (1, H, S, T); nothing is learned."""

    biased = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(num_heads)

    def bias(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """q (B, H, S, D), k (B, K, T, D) -> (1, H, S, T)."""
        slopes = torch.tensor(self.slopes, device=q.device, dtype=torch.float32)[None, :, None, None]
        return (-slopes * distances(q, k).abs()).to(q.dtype)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8/n), 2^(-16/n), ..., 2^-8 for n heads, a power of two. For other numbers those of the next smaller power, then
    every second one of twice as many heads, as in the paper's code."""
    check_int("num_heads", num_heads)
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2 ** (-4 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return tuple([*slopes, *between][:num_heads])
