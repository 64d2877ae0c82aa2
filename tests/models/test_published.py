"""Sinks, additive scores, sigmoid and top-k against published code, or against loops that follow the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from edgeattn.models.functional import attention
from edgeattn.spec import Causal, Sigmoid, SlidingWindow, SoftmaxAttention, TopK

RNG = torch.Generator().manual_seed(0)


def normal(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=RNG, dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sink_is_that_of_gpt_oss(window: int | None, dtype: torch.dtype) -> None:
    pattern = Causal() if window is None else SlidingWindow(window - 1, 0)
    spec = SoftmaxAttention(6, 2, 8, pattern=pattern, sink=True, scale=0.4)
    q, k, v, sinks = (x.to(dtype) for x in (normal(2, 6, 7, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8), 2 * normal(6)))
    i, j = torch.arange(7)[:, None], torch.arange(7)
    shown = (j <= i) & (i - j < (window or 7))
    module = torch.nn.Module().eval()
    module.num_key_value_groups, module.sinks = 3, sinks  # type: ignore[assignment]
    added = torch.zeros(7, 7, dtype=dtype).masked_fill(~shown, -torch.inf)
    expected, _ = eager_attention_forward(module, q, k, v, added, scaling=0.4)
    torch.testing.assert_close(attention(q, k, v, spec, sink=sinks), expected.transpose(1, 2))


def test_a_sink_of_minus_infinity_takes_nothing_and_a_large_one_takes_all() -> None:
    spec = SoftmaxAttention(2, 2, 4, sink=True)
    q, k, v = normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    without = attention(q, k, v, SoftmaxAttention(2, 2, 4))
    torch.testing.assert_close(attention(q, k, v, spec, sink=torch.tensor([-math.inf, 1e4]).double())[:, 0], without[:, 0])
    assert attention(q, k, v, spec, sink=torch.tensor([-math.inf, 1e4]).double())[:, 1].eq(0).all()


@pytest.mark.parametrize("softcap", [None, 0.8])
def test_additive_scores_are_bahdanau_s(softcap: float | None) -> None:
    """e = w . tanh(q + k), one pair at a time."""
    spec = SoftmaxAttention(4, 2, 3, 5, scale=0.7, score="additive", softcap=softcap)
    q, k, v, w = normal(2, 4, 3, 3), normal(2, 2, 6, 3), normal(2, 2, 6, 5), normal(4, 3)
    expected = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    for b, h, i in np.ndindex(2, 4, 3):
        energies = []
        for j in range(6):
            pairs = zip(q[b, h, i].tolist(), k[b, h // 2, j].tolist(), w[h].tolist(), strict=True)
            energy = 0.7 * sum(weight * math.tanh(x + y) for x, y, weight in pairs)
            energies.append(math.exp(energy if softcap is None else softcap * math.tanh(energy / softcap)))
        for j, energy in enumerate(energies):
            expected[b, h, i] += energy / sum(energies) * v[b, h // 2, j]
    torch.testing.assert_close(attention(q, k, v, spec, score_weight=w), expected)


@pytest.mark.parametrize("offset", [None, 0.0, -1.5])
def test_sigmoid_attention_weighs_each_key_by_itself(offset: float | None) -> None:
    spec = SoftmaxAttention(2, 2, 4, pattern=Causal(), normalizer=Sigmoid(offset))
    q, k, v = normal(1, 2, 4, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    added = -math.log(5) if offset is None else offset  # T, not the number of visible keys
    expected = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    for h, i in np.ndindex(2, 4):
        for j in range(i + 1):
            score = float(q[0, h, i] @ k[0, h, j]) / 2 + added
            expected[0, h, i] += v[0, h, j] / (1 + math.exp(-score))
    torch.testing.assert_close(attention(q, k, v, spec), expected)


@pytest.mark.parametrize("best", [1, 2, 4, 9])
def test_top_k_is_softmax_over_the_best(best: int) -> None:
    spec = SoftmaxAttention(2, 2, 4, pattern=Causal(), normalizer=TopK(best))
    q, k, v = normal(1, 2, 6, 4), normal(1, 2, 6, 4), normal(1, 2, 6, 4)
    out = attention(q, k, v, spec)
    for h, i in np.ndindex(2, 6):
        scores = [float(q[0, h, i] @ k[0, h, j]) / 2 for j in range(i + 1)]
        chosen = sorted(range(i + 1), key=scores.__getitem__)[-best:]
        weights = torch.softmax(torch.tensor([scores[j] for j in chosen], dtype=torch.float64), dim=0)
        torch.testing.assert_close(out[0, h, i], weights @ v[0, h, chosen])


@pytest.mark.slow
def test_compiled_sigmoid_follows_the_number_of_keys() -> None:
    """A number of keys that was traced as a constant would be right for the first length only."""
    spec = SoftmaxAttention(2, 2, 4, normalizer=Sigmoid())
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, spec), backend="aot_eager", dynamic=True, fullgraph=True)
    for keys in (3, 5, 8):
        q, k = normal(1, 2, 3, 4), normal(1, 2, keys, 4)
        torch.testing.assert_close(compiled(q, k, k), attention(q, k, k, spec))
