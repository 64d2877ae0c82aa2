"""T5's relative positions: a learned bias for each bucket of distances and each head; buckets grow wider with distance.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2019
(https://arxiv.org/abs/1910.10683), section 2.1. T5 itself also leaves scores unscaled: `scale=1.0`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.positions.base import Positions, clipped_distances


class T5Positions(Positions):
    """Bias table[bucket(j - i), h], (1, H, S, T). Weight: `table` (num_buckets, H).

    `causal` gives all buckets to keys before the query, and all keys after it the bucket of the query itself.

    Raises:
        UsageError: too few buckets, or a max_distance that leaves none for the far ones.
    """

    biased = True

    def __init__(self, num_heads: int, *, num_buckets: int = 32, max_distance: int = 128, causal: bool = False) -> None:
        super().__init__()
        # Every distance has its bucket from a list made here: logarithms of a runtime could round to the neighbour.
        reach = torch.arange(-max_distance, max_distance + 1, device="cpu")
        self.buckets = tuple(bucket_of(reach, num_buckets, max_distance, causal).tolist())
        self.max_distance = max_distance
        self.table = nn.Embedding(num_buckets, num_heads)

    def bias(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """q (B, H, S, D), k (B, K, T, D) -> (1, H, S, T)."""
        by_distance: Tensor = self.table(torch.tensor(self.buckets, device=q.device))
        clipped = clipped_distances(q, k, self.max_distance)
        return nn.functional.embedding(clipped, by_distance).permute(2, 0, 1)[None]


def bucket_of(distance: Tensor, num_buckets: int, max_distance: int, causal: bool) -> Tensor:
    """int64 distances j - i of any shape -> int64 buckets, 0 <= bucket < num_buckets.

    Half of a side's buckets hold one distance each; the others hold ranges that widen up to max_distance, and the last
    one everything beyond.

    Raises:
        UsageError: too few buckets, or a max_distance that leaves none for the far ones.
    """
    side = num_buckets if causal else num_buckets // 2
    near = side // 2
    if near < 1 or max_distance <= near:
        raise UsageError(
            f"num_buckets must be at least {2 if causal else 4}, and max_distance above the {near} distances that have "
            f"a bucket of their own; got num_buckets {num_buckets} and max_distance {max_distance}"
        )
    away = (-distance).clamp_min(0) if causal else distance.abs()
    share = torch.log(away.clamp_min(near).float() / near) / math.log(max_distance / near)
    wide = (near + (share * (side - near)).long()).clamp_max(side - 1)
    bucket = torch.where(away < near, away, wide)
    return bucket if causal else bucket + side * (distance > 0)
