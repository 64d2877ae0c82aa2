"""The frequencies of rotary and sinusoidal positions, and the ways to stretch them over a context longer than the trained one.

All are computed in float32, in the order of operations in which released models were trained, and kept as Python numbers:
a buffer would be rounded by `module.half()`, and the angle of a late position multiplies that error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.fields import check_int


def plain_frequencies(size: int, base: float) -> Tensor:
    """float32 (size / 2,): base^(-2c / size), radians per position."""
    return 1.0 / (base ** (_even(size) / size))


class Scaling(Protocol):
    """How the frequencies change for a context that is `factor` times as long."""

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""

    def frequencies(self, size: int, base: float) -> Tensor:
        """float32 (size / 2,), radians per position."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Every frequency divided by `factor`, as if positions lay closer together.

    Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation", 2023
    (https://arxiv.org/abs/2306.15595).
    """

    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    @property
    def magnitude(self) -> float:
        return 1.0

    def frequencies(self, size: int, base: float) -> Tensor:
        return plain_frequencies(size, base) / self.factor


@dataclass(frozen=True, slots=True)
class DynamicNTK:
    """A larger base, the more so the longer the sequence at hand; up to `trained` positions nothing changes.

    "NTK-aware" scaling, made dynamic: described in Peng et al., "YaRN", 2023 (https://arxiv.org/abs/2309.00071),
    sections 3.1 and 3.3.
    """

    factor: float
    trained: int
    """The context length that the model was trained with."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        check_int("trained", self.trained)

    @property
    def magnitude(self) -> float:
        return 1.0

    def frequencies(self, size: int, base: float) -> Tensor:
        if size < 4:
            raise UsageError(
                f"DynamicNTK spreads the change over the pairs of a head: expected a rotary_dim of 4 or more, got {size}"
            )
        return plain_frequencies(size, base)

    def at_length(self, length: Tensor, size: int, base: float) -> Tensor:
        """float32 (size / 2,) for a sequence of `length`, an integer tensor without axes: no branch on its value."""
        length = length.clamp_min(self.trained).float()
        stretch = (self.factor * length / self.trained) - (self.factor - 1)
        exponents = _even(size).to(length.device) / size
        return 1.0 / ((base * stretch ** (size / (size - 2))) ** exponents)


@dataclass(frozen=True, slots=True)
class YaRN:
    """Fast frequencies stay, slow ones are divided by `factor`, those between are blended; scores grow by magnitude^2.

    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023
    (https://arxiv.org/abs/2309.00071), sections 3.2 and 3.4.
    """

    factor: float
    trained: int
    """The context length that the model was trained with."""
    fast: float = 32.0
    """A frequency with more turns than this over the trained context stays (the paper's beta)."""
    slow: float = 1.0
    """A frequency with fewer turns than this is divided by the whole factor (the paper's alpha)."""
    attention_factor: float | None = None
    """The magnitude, if not the paper's 0.1 ln(factor) + 1: DeepSeek has 1 here and a larger scale of the scores."""
    whole_steps: bool = True
    """Whether the blend begins and ends at whole numbers of pairs; gpt-oss has False (transformers' `truncate`)."""

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        check_int("trained", self.trained)

    @property
    def magnitude(self) -> float:
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    def frequencies(self, size: int, base: float) -> Tensor:
        first, last = self._blended(size, base)
        ramp = (torch.arange(size // 2, dtype=torch.float32, device="cpu") - first) / max(last - first, 0.001)
        kept = 1 - ramp.clamp(0, 1)
        periods = base ** (_even(size) / size)
        return (1.0 / (self.factor * periods)) * (1 - kept) + (1.0 / periods) * kept

    def _blended(self, size: int, base: float) -> tuple[float, float]:
        """The first and the last pair between those that stay and those that are divided."""
        first, last = (
            size * math.log(self.trained / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (self.fast, self.slow)
        )
        if self.whole_steps:
            first, last = math.floor(first), math.ceil(last)
        return max(first, 0), min(last, size - 1)


@dataclass(frozen=True, slots=True)
class Llama3:
    """As YaRN, but blended by wavelength, and scores stay as they are (Llama 3.1).

    Grattafiori et al., "The Llama 3 Herd of Models", 2024 (https://arxiv.org/abs/2407.21783); the numbers are those of
    the released models.
    """

    factor: float = 8.0
    trained: int = 8192
    """The context length that the model was trained with."""
    slow: float = 1.0
    fast: float = 4.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        check_int("trained", self.trained)

    @property
    def magnitude(self) -> float:
        return 1.0

    def frequencies(self, size: int, base: float) -> Tensor:
        plain = plain_frequencies(size, base)
        turns = self.trained / (2 * math.pi / plain)
        kept = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain


def _even(size: int) -> Tensor:
    """float32 (size / 2,): 0, 2, 4, ..., on the CPU whatever the default device, since its values are read."""
    if size < 2 or size % 2:
        raise UsageError(f"positions come in pairs of a sine and a cosine: expected an even size, got {size}")
    return torch.arange(0, size, 2, dtype=torch.float32, device="cpu")


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise UsageError(f"factor says how many times longer the context becomes: expected at least 1, got {factor}")
