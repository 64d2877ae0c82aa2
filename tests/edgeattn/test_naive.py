"""The numpy formula against its definition, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.naive import Array, softmax_attention, visible
from edgeattn.spec import AttentionSpec, Causal, Full, Pattern, SlidingWindow, SoftmaxAttention

PATTERNS: list[Pattern] = [
    Full(),
    Causal(),
    Causal("lower_right"),
    SlidingWindow(1, 0),
    SlidingWindow(1, 1, "lower_right"),
    SlidingWindow(None, 1),
    SlidingWindow(2, None),
]


def by_definition(
    q: Array, k: Array, v: Array, spec: AttentionSpec, shown: Array, mask: Array | None, bias: Array | None
) -> Array:
    """Loops over every query, with math.exp and no linear algebra."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    out = np.zeros((batch, heads, queries, v.shape[3]))
    for b, h, i in np.ndindex(batch, heads, queries):
        head = h // (spec.q_heads // spec.kv_heads)
        weights = {}
        for j in range(keys):
            allowed = shown[i, j] and (mask is None or (mask[b, j] if spec.mask == "key_padding" else mask[b, 0, i, j]))
            if allowed:
                score = spec.scale * sum(float(x) * float(y) for x, y in zip(q[b, h, i], k[b, head, j], strict=True))
                score = spec.softcap * math.tanh(score / spec.softcap) if spec.softcap else score
                weights[j] = math.exp(score + (0.0 if bias is None else float(bias[0, h, i, j])))
        for j, weight in weights.items():
            out[b, h, i] += weight / sum(weights.values()) * v[b, head, j]
    return out


@given(
    st.sampled_from(PATTERNS),
    st.sampled_from(["none", "key_padding", "dense"]),
    st.booleans(),
    st.sampled_from([None, 1.5]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (1, 4), (3, 3), (4, 2), (2, 5)]),
    st.integers(0, 99),
)
def test_formula_is_the_definition(
    pattern: Pattern,
    kind: str,
    with_bias: bool,
    softcap: float | None,
    kv_heads: int,
    group: int,
    lengths: tuple[int, int],
    seed: int,
) -> None:
    spec = SoftmaxAttention(
        kv_heads * group,
        kv_heads,
        3,
        2,
        scale=0.7,
        pattern=pattern,
        softcap=softcap,
        mask=kind,  # type: ignore[arg-type]
        bias=with_bias,
    )
    rng, (queries, keys) = np.random.default_rng(seed), lengths
    q, k, v = (
        rng.normal(size=(2, h, n, d)) for h, n, d in ((spec.q_heads, queries, 3), (kv_heads, keys, 3), (kv_heads, keys, 2))
    )
    mask = {"none": None, "key_padding": rng.random((2, keys)) > 0.5, "dense": rng.random((2, 1, queries, keys)) > 0.5}[kind]
    if mask is not None:
        mask[-1] = False
    bias = rng.normal(size=(1, spec.q_heads, queries, keys)) if with_bias else None
    got = softmax_attention(q, k, v, spec, mask, bias)
    expected = by_definition(q, k, v, spec, visible(pattern, queries, keys), mask, bias)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("pattern", "queries", "keys", "rows"),
    [
        (Full(), 2, 3, ["111", "111"]),
        (Causal(), 2, 4, ["1000", "1100"]),
        (Causal("lower_right"), 2, 4, ["1110", "1111"]),
        (Causal("lower_right"), 3, 1, ["0", "0", "1"]),
        (SlidingWindow(1, 0), 4, 4, ["1000", "1100", "0110", "0011"]),
        (SlidingWindow(0, 1), 3, 4, ["1100", "0110", "0011"]),
        (SlidingWindow(1, 0, "lower_right"), 2, 4, ["0110", "0011"]),
        (SlidingWindow(None, 1), 2, 3, ["110", "111"]),
        (SlidingWindow(0, None), 2, 3, ["111", "011"]),
    ],
)
def test_patterns_drawn(pattern: Pattern, queries: int, keys: int, rows: list[str]) -> None:
    drawn = ["".join("01"[int(seen)] for seen in row) for row in visible(pattern, queries, keys)]
    assert drawn == rows


def test_large_scores_do_not_overflow() -> None:
    q = np.full((1, 1, 2, 1), 1e3)
    out = softmax_attention(q, q, q, SoftmaxAttention(1, 1, 1))
    np.testing.assert_allclose(out, q)


def test_bias_of_minus_infinity_hides_a_key() -> None:
    x = np.arange(3.0).reshape(1, 1, 3, 1)
    bias = np.array([[[[0, -np.inf, -np.inf], [-np.inf] * 3, [-np.inf, -np.inf, 0]]]])
    out = softmax_attention(x, x, x, SoftmaxAttention(1, 1, 1, bias=True), bias=bias)
    assert out.reshape(-1).tolist() == [0.0, 0.0, 2.0]


def test_no_key_at_all_gives_zeros() -> None:
    q, empty = np.ones((1, 2, 3, 4)), np.ones((1, 2, 0, 4))
    assert not softmax_attention(q, empty, empty, SoftmaxAttention(2, 2, 4)).any()


def test_float32_is_computed_in_float64() -> None:
    x = np.ones((1, 1, 2, 4), np.float32)
    assert softmax_attention(x, x, x, SoftmaxAttention(1, 1, 4)).dtype == np.float64
