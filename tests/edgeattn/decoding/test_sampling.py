"""Sampling leaves in and out what transformers' own warpers do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from edgeattn.decoding.sampling import Sampling
from edgeattn.errors import UsageError

scores = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True)


@given(scores, st.floats(0.1, 3), st.integers(1, 12), st.floats(0.05, 1))
def test_the_shares_are_those_of_transformers(values: list[float], temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    warped: Any = logits
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        warped = warper(None, warped)
    expected = torch.softmax(warped, -1).numpy()
    got = Sampling(temperature, top_k, top_p).probabilities(logits.numpy())
    differing = (got > 0) != (expected > 0)  # at a share of exactly top_p either side is right
    cumulated = np.sort(torch.softmax(logits / temperature, -1).numpy())[:, ::-1].cumsum()
    if not np.isclose(cumulated, top_p, atol=1e-9).any() and not differing.any():
        np.testing.assert_allclose(got, expected, atol=1e-12)
    elif not np.isclose(cumulated / cumulated[min(top_k, len(values)) - 1], top_p, atol=1e-9).any():
        assert not differing.any()


def test_zero_takes_the_likeliest() -> None:
    logits = np.array([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]])
    np.testing.assert_array_equal(Sampling().choose(logits, np.random.default_rng(0)), [1, 0])


def test_draws_follow_the_shares_and_the_seed() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]])).repeat(4000, axis=0)
    drawn = Sampling(temperature=1.0).choose(logits, np.random.default_rng(3))
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.5, 0.3, 0.2], atol=0.03)
    np.testing.assert_array_equal(drawn, Sampling(temperature=1.0).choose(logits, np.random.default_rng(3)))
    assert set(Sampling(temperature=1.0, top_k=2).choose(logits, np.random.default_rng(0))) == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**options)
