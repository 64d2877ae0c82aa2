"""Shaw's relative positions: a learned key for each distance, clipped on both sides, joins the real keys' scores.

Shaw et al., "Self-Attention with Relative Position Representations", 2018 (https://arxiv.org/abs/1803.02155), equation 4:
score(i, j) = q_i (k_j + a_clip(j - i))^T / sqrt(D), the second part of which is a bias. The paper's learned *values* for
distances (equation 3) are left out: they need the weights of the softmax, which a fused attention does not give out, and
the paper's own ablation (section 4.3) finds keys alone as good as both.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeattn.fields import check_int
from edgeattn.models.positions.base import Positions, clipped_distances


class ShawPositions(Positions):
    """Bias scale * q_i a_clip(j - i)^T, (B, H, S, T). Weight: `table` (2 * max_distance + 1, D), for all heads."""

    biased = True

    def __init__(self, head_dim: int, max_distance: int = 16) -> None:
        super().__init__()
        check_int("max_distance", max_distance)
        self.max_distance = max_distance
        self.table = nn.Embedding(2 * max_distance + 1, head_dim)

    def bias(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """q (B, H, S, D), k (B, K, T, D) -> (B, H, S, T)."""
        by_distance = scale * (q @ self.table.weight.T)  # (B, H, S, 2 * max_distance + 1)
        clipped = clipped_distances(q, k, self.max_distance)
        return by_distance.gather(3, clipped.expand(*q.shape[:2], *clipped.shape))
