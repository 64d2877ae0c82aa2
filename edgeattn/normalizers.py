"""Normalizers: from a row of scores to weights. Types only; the maths is in `edgeattn.naive` and its torch twin."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgeattn.errors import SpecError
from edgeattn.fields import check_int, construct, finite


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(score), divided by the row's sum."""

    def summary(self) -> str:
        """As tables show it."""
        return "softmax"


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """1 / (1 + exp(-score - offset)) for each key by itself; `offset` None means -log(T).

    Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", 2024
    (https://arxiv.org/abs/2409.04431).
    """

    offset: float | None = None

    def __post_init__(self) -> None:
        if self.offset is not None:
            object.__setattr__(self, "offset", finite("Sigmoid.offset", self.offset, positive=False))

    def summary(self) -> str:
        """As tables show it."""
        return "sigmoid" if self.offset is None else f"sigmoid, offset {self.offset:g}"


@dataclass(frozen=True, slots=True)
class Sparsemax:
    """The Euclidean projection of the scores onto the simplex: weights that are exactly 0 beyond some rank.

    Martins & Astudillo, "From Softmax to Sparsemax", 2016 (https://arxiv.org/abs/1602.02068).
    """

    def summary(self) -> str:
        """As tables show it."""
        return "sparsemax"


@dataclass(frozen=True, slots=True)
class Entmax15:
    """Half way between softmax and sparsemax: max(score / 2 - tau, 0)^2 with the tau that makes the sum 1.

    Peters et al., "Sparse Sequence-to-Sequence Models", 2019 (https://arxiv.org/abs/1905.05702).
    """

    def summary(self) -> str:
        """As tables show it."""
        return "entmax-1.5"


@dataclass(frozen=True, slots=True)
class TopK:
    """Softmax over the keys whose score is among the `k` highest; equal scores at the edge all take part.

    Which scores are equal depends on how a runtime rounds, so nothing is proven about ties, or about scores that differ
    by less than float32 tells apart.

    k = 1 is hard attention (argmax). A `k` above T means all keys. Gupta et al., "Memory-efficient Transformers via
    Top-k Attention", 2021 (https://arxiv.org/abs/2106.06899).
    """

    k: int

    def __post_init__(self) -> None:
        check_int("TopK.k", self.k)

    def summary(self) -> str:
        """As tables show it."""
        return "argmax" if self.k == 1 else f"top-{self.k}"


Normalizer = Softmax | Sigmoid | Sparsemax | Entmax15 | TopK
_TYPES: dict[str, type[Normalizer]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "sparsemax": Sparsemax,
    "entmax15": Entmax15,
    "top_k": TopK,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


def check_normalizer(normalizer: object) -> None:
    """Raise SpecError for anything but a normalizer."""
    if type(normalizer) not in _NAMES:
        raise SpecError(f"normalizer must be one of {', '.join(c.__name__ for c in _NAMES)}, got {normalizer!r}")


def to_dict(normalizer: Normalizer) -> dict[str, Any]:
    """A JSON-ready dict; `from_dict` reads it back."""
    return {"type": _NAMES[type(normalizer)], **dataclasses.asdict(normalizer)}


def from_dict(data: Any) -> Normalizer:
    """The normalizer that `to_dict` wrote. Raises SpecError."""
    return construct("a normalizer", _TYPES, data)
