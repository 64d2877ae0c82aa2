"""Normalizers in numpy and in torch: against each other, against oracles that know nothing of sorting or bisection, by law."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeattn import naive as numpy_naive
from edgeattn.errors import SpecError
from edgeattn.models.attention import naive as torch_naive
from edgeattn.normalizers import (
    Entmax15,
    Normalizer,
    Sigmoid,
    Softmax,
    Sparsemax,
    TopK,
    check_normalizer,
    from_dict,
    to_dict,
)

Row = NDArray[np.float64]

EACH: list[Normalizer] = [Softmax(), Sigmoid(), Sigmoid(-2.0), Sparsemax(), Entmax15(), TopK(1), TopK(3)]
SUMMING = [normalizer for normalizer in EACH if not isinstance(normalizer, Sigmoid)]
finite = st.floats(-30, 30) | st.integers(-3, 3).map(float)
rows = st.lists(finite | st.just(-math.inf), min_size=1, max_size=8).map(np.array)


def by_name(normalizer: Normalizer) -> str:
    return normalizer.summary()


def in_torch(scores: Row, normalizer: Normalizer) -> Row:
    weights: Row = torch_naive.weigh(torch.tensor(scores), normalizer).numpy()
    return weights


@given(rows, st.sampled_from(EACH))
def test_torch_is_numpy(row: Row, normalizer: Normalizer) -> None:
    np.testing.assert_allclose(in_torch(row, normalizer), numpy_naive.weigh(row, normalizer), rtol=1e-10, atol=1e-12)


def projection(row: Row) -> Row:
    """argmin |p - row|^2 over the simplex, by trying every support: the optimum is the nearest of the feasible candidates."""
    best, nearest = np.zeros_like(row), math.inf
    for size in range(1, len(row) + 1):
        for support in map(list, itertools.combinations(range(len(row)), size)):
            weights = np.zeros_like(row)
            weights[support] = row[support] - (row[support].sum() - 1) / size
            distance = ((weights - row) ** 2).sum()
            if weights.min() >= 0 and distance < nearest:
                best, nearest = weights, distance
    return best


def tsallis(row: Row) -> Row:
    """argmax p.row + (1 - sum p^1.5) * 4 / 3 over the simplex, by trying every support.

    On a support p = (row / 2 - tau)^2, and the sum of 1 makes tau the root of a quadratic that lies below the scores.
    """
    best, highest = np.zeros_like(row), -math.inf
    for size in range(1, len(row) + 1):
        for support in map(list, itertools.combinations(range(len(row)), size)):
            half = row[support] / 2
            middle, inside = half.sum() / size, (half.sum() / size) ** 2 - ((half**2).sum() - 1) / size
            if inside < 0 or middle - math.sqrt(inside) > half.min() + 1e-12:
                continue
            weights = np.zeros_like(row)
            weights[support] = (half - middle + math.sqrt(inside)) ** 2
            value = weights @ row + (1 - (weights**1.5).sum()) * 4 / 3
            if value > highest:
                best, highest = weights, value
    return best


close = st.lists(st.floats(-2, 2), min_size=1, max_size=6).map(np.array)
"""Scores so near each other that supports of every size come up."""


@given(close)
def test_sparsemax_is_the_projection(row: Row) -> None:
    expected = projection(row)
    for weigh in (numpy_naive.weigh, in_torch):
        np.testing.assert_allclose(weigh(row, Sparsemax()), expected, atol=1e-7)


@given(close)
def test_entmax_maximizes_what_its_paper_says(row: Row) -> None:
    expected = tsallis(row)
    for weigh in (numpy_naive.weigh, in_torch):
        np.testing.assert_allclose(weigh(row, Entmax15()), expected, atol=1e-6)


@pytest.mark.parametrize("weigh", [numpy_naive.weigh, in_torch], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("normalizer", "scores", "weights"),
    [
        (Softmax(), [0, math.log(3)], [0.25, 0.75]),
        (Sigmoid(0.0), [0, math.log(3), -math.inf], [0.5, 0.75, 0]),
        (Sigmoid(), [0, math.log(3), -math.inf], [0.25, 0.5, 0]),  # offset -log(3): exp(score) / (exp(score) + 3)
        (Sparsemax(), [0.5, 0.1, -2], [0.7, 0.3, 0]),
        (Sparsemax(), [3, 1, 1], [1, 0, 0]),
        (Sparsemax(), [1, 1, 0.25], [0.5, 0.5, 0]),  # 1 - 0.25 > 1 / 2
        (Sparsemax(), [0, 0, 0, -math.inf], [1 / 3, 1 / 3, 1 / 3, 0]),
        (Entmax15(), [1, 1], [0.5, 0.5]),
        (Entmax15(), [2, 0], [1, 0]),  # the edge: scores 2 apart
        (Entmax15(), [0.4, 0], [0.64, 0.36]),  # tau = 0.1 - 0.7
        (TopK(1), [1, 5, 3], [0, 1, 0]),
        (TopK(2), [0, math.log(3), -1], [0.25, 0.75, 0]),
        (TopK(2), [7, 7, 7, 1], [1 / 3, 1 / 3, 1 / 3, 0]),  # equal scores at the edge all take part
        (TopK(1), [2, 2], [0.5, 0.5]),
        (TopK(9), [0, math.log(3)], [0.25, 0.75]),
        (TopK(3), [0, -math.inf, -math.inf, -math.inf], [1, 0, 0, 0]),  # fewer visible than k
    ],
    ids=str,
)
def test_by_hand(weigh: Any, normalizer: Normalizer, scores: list[float], weights: list[float]) -> None:
    np.testing.assert_allclose(weigh(np.array(scores, dtype=np.float64), normalizer), weights, atol=1e-15, rtol=1e-14)


@given(rows.filter(lambda row: np.isfinite(row).any()), st.sampled_from(SUMMING))
def test_weights_are_a_distribution_over_the_visible_keys(row: Row, normalizer: Normalizer) -> None:
    for weigh in (numpy_naive.weigh, in_torch):
        weights = weigh(row, normalizer)
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        assert (weights >= 0).all()
        assert (weights[np.isneginf(row)] == 0).all()
        order = np.argsort(row, kind="stable")
        assert (np.diff(weights[order]) >= -1e-12).all()


@pytest.mark.parametrize("normalizer", [Sparsemax(), Entmax15(), TopK(2)], ids=by_name)
def test_far_scores_weigh_exactly_nothing(normalizer: Normalizer) -> None:
    row = np.array([0.0, 0.3, -5.0, -1e30])
    for weigh in (numpy_naive.weigh, in_torch):
        weights = weigh(row, normalizer)
        assert (weights[:2] > 0).all()
        assert weights[2:].tolist() == [0.0, 0.0]


@given(rows, st.sampled_from(SUMMING), st.floats(-100, 100))
def test_a_constant_added_to_a_row_changes_nothing(row: Row, normalizer: Normalizer, constant: float) -> None:
    if isinstance(normalizer, TopK):
        row, constant = np.round(row), round(constant)  # else rounding decides which scores are equal
    for weigh in (numpy_naive.weigh, in_torch):
        np.testing.assert_allclose(weigh(row + constant, normalizer), weigh(row, normalizer), atol=1e-6)


@pytest.mark.parametrize("normalizer", EACH, ids=by_name)
def test_huge_scores_stay_finite(normalizer: Normalizer) -> None:
    row = np.array([1e30, -1e30, 0.0])
    for weigh in (numpy_naive.weigh, in_torch):
        assert weigh(row, normalizer).tolist()[0] == 1.0
        assert np.isfinite(weigh(row, normalizer)).all()


@pytest.mark.parametrize("normalizer", EACH, ids=by_name)
def test_a_row_hidden_throughout_gives_zeros_and_zero_gradients(normalizer: Normalizer) -> None:
    scores = torch.tensor([[-torch.inf] * 3, [0.5, -torch.inf, 0.25]], dtype=torch.float64)
    assert not numpy_naive.weigh(scores[0].numpy(), normalizer).any()
    raw = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch_naive.weigh((raw + scores).masked_fill(scores == -torch.inf, -torch.inf), normalizer)
    assert weights[0].eq(0).all()
    (grad,) = torch.autograd.grad((weights * torch.tensor([1.0, 5.0, -2.0])).sum(), raw)
    assert grad[0].eq(0).all()
    assert grad[1, 1] == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("normalizer", EACH, ids=by_name)
def test_no_key_at_all_has_no_weights(normalizer: Normalizer) -> None:
    assert numpy_naive.weigh(np.zeros((2, 0)), normalizer).shape == (2, 0)


@pytest.mark.parametrize("normalizer", EACH, ids=by_name)
def test_gradients_by_finite_differences(normalizer: Normalizer) -> None:
    scores = torch.tensor([[0.17, 0.5, -0.3, 0.7, -2.9], [1.4, 0.0, 1.1, -0.2, 0.47]], dtype=torch.float64).requires_grad_()
    hidden = torch.tensor([[False] * 5, [False, False, True, False, False]])

    def weights(x: torch.Tensor) -> torch.Tensor:
        return torch_naive.weigh(x.masked_fill(hidden, -torch.inf), normalizer)

    assert torch.autograd.gradcheck(weights, scores)


def test_the_number_of_keys_in_sigmoid_is_not_rounded_to_float32() -> None:
    row = np.zeros(10_000)
    assert in_torch(row, Sigmoid())[0] == pytest.approx(1 / 10_001, rel=1e-14)
    assert torch_naive.weigh(torch.zeros(5), Sigmoid()).dtype == torch.float32


@pytest.mark.parametrize("normalizer", [*EACH, Sigmoid(3)], ids=by_name)
def test_json_comes_back(normalizer: Normalizer) -> None:
    again = from_dict(json.loads(json.dumps(to_dict(normalizer))))
    assert again == normalizer
    assert hash(again) == hash(normalizer)


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (TopK, 0, r"TopK\.k must be a whole number >= 1, got 0"),
        (TopK, 2.0, r"TopK\.k must be a whole number >= 1, got 2\.0"),
        (Sigmoid, math.nan, r"Sigmoid\.offset must be a finite number, got nan"),
        (Sigmoid, True, r"Sigmoid\.offset must be a finite number, got True"),
        (Sigmoid, "0", r"Sigmoid\.offset must be a finite number, got '0'"),
        (from_dict, {"type": "entmax"}, "expected a normalizer of type softmax, sigmoid, .*, got {'type': 'entmax'}"),
        (from_dict, {"type": "softmax", "k": 1}, "Softmax: "),
        (check_normalizer, None, "normalizer must be one of Softmax, .*, TopK, got None"),
    ],
)
def test_normalizers_that_make_no_sense(make: Any, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(value)
