"""The next token from logits: the likeliest, or a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import UsageError

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest one; `top_k` 0 and `top_p` 1 leave everything in.

    top_p: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020 (https://arxiv.org/abs/1904.09751).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be 0 (the likeliest token) or more, got {self.temperature}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be 0 (every token) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def choose(self, logits: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
        """(B, V) -> (B,)."""
        if self.temperature == 0:
            return np.asarray(logits.argmax(axis=-1), dtype=np.int64)
        return np.array([rng.choice(row.size, p=row) for row in self.probabilities(logits)], dtype=np.int64)

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """(B, V) -> what a draw takes each token with; those that top-k and top-p leave out have 0."""
        scores = np.asarray(logits, dtype=np.float64) / (self.temperature or 1.0)
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = _softmax(np.take_along_axis(scores, order, axis=-1))
        kept = np.ones_like(ranked, dtype=bool)
        if self.top_k:
            kept[:, self.top_k :] = False
        if self.top_p < 1:
            ranked = np.where(kept, ranked, 0)
            ranked /= ranked.sum(axis=-1, keepdims=True)
            kept &= ranked.cumsum(axis=-1) - ranked < self.top_p  # the first that reaches the share is still in
        chosen = np.where(kept, ranked, 0)
        chosen /= chosen.sum(axis=-1, keepdims=True)
        result = np.empty_like(chosen)
        np.put_along_axis(result, order, chosen, axis=-1)
        return result


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
