"""The numpy formula against its definition, one number at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.naive import Array, softmax_attention, visible
from edgeattn.spec import (
    AttentionSpec,
    BlockSparse,
    Causal,
    Dilated,
    Full,
    Pattern,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    Softmax,
    SoftmaxAttention,
)

PATTERNS: list[Pattern] = [
    Full(),
    Causal("lower_right"),
    PrefixLM(),
    SlidingWindow(1, 1, "lower_right"),
    SlidingWindow(None, 1),
    Dilated(1, 1, 2),
    BlockSparse(2, (("100", "101", "011"),)),
]
Inputs = dict[str, Array]


def by_definition(spec: AttentionSpec, inputs: Inputs) -> Array:
    """Loops over every query, with math.exp and no linear algebra."""
    q, k, v = (inputs[name] for name in "qkv")
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    out = np.zeros((batch, heads, queries, v.shape[3]))
    for b, h, i in np.ndindex(batch, heads, queries):
        head = h // (spec.q_heads // spec.kv_heads)
        weights = {j: math.exp(score_of(spec, inputs, (b, h, i, j))) for j in range(keys) if allowed(spec, inputs, (b, i, j))}
        total = sum(weights.values()) + (math.exp(inputs["sink"][h]) if spec.sink else 0.0)
        for j, weight in weights.items():
            share = weight / (weight + keys) if isinstance(spec.normalizer, Sigmoid) else weight / total
            out[b, h, i] += share * v[b, head, j]
    return out


def allowed(spec: AttentionSpec, inputs: Inputs, place: tuple[int, int, int]) -> bool:
    b, i, j = place
    lengths = inputs["q"].shape[2], inputs["k"].shape[2]
    shown = visible(spec.pattern, *lengths, inputs["prefix"][b : b + 1] if "prefix" in inputs else None)
    if spec.mask == "none" or not shown.reshape(lengths)[i, j]:
        return bool(shown.reshape(lengths)[i, j])
    mask = inputs["mask"]
    if spec.mask == "document":
        return bool(mask[b, i] == mask[b, j] >= 0)
    return bool(mask[b, j] if spec.mask == "key_padding" else mask[b, 0, i, j])


def score_of(spec: AttentionSpec, inputs: Inputs, place: tuple[int, int, int, int]) -> float:
    b, h, i, j = place
    pairs = list(zip(inputs["q"][b, h, i].tolist(), inputs["k"][b, h // spec.group, j].tolist(), strict=True))
    if spec.score == "additive":
        weight = inputs["score_weight"][h].tolist()
        score = spec.scale * sum(w * math.tanh(x + y) for w, (x, y) in zip(weight, pairs, strict=True))
    else:
        score = spec.scale * sum(x * y for x, y in pairs)
    score = spec.softcap * math.tanh(score / spec.softcap) if spec.softcap else score
    return float(score + (inputs["bias"][0, h, i, j] if spec.bias else 0.0))


def drawn(spec: AttentionSpec, queries: int, keys: int, seed: int) -> Inputs:
    """Random inputs for two rows, the last of which sees nothing by its mask."""
    rng = np.random.default_rng(seed)
    sizes = {
        "q": (2, spec.q_heads, queries, spec.head_dim),
        "k": (2, spec.kv_heads, keys, spec.head_dim),
        "v": (2, spec.kv_heads, keys, spec.value_head_dim),
        "bias": (1, spec.q_heads, queries, keys),
        "sink": (spec.q_heads,),
        "score_weight": (spec.q_heads, spec.head_dim),
    }
    inputs: Inputs = {name: rng.normal(size=size) for name, size in sizes.items()}
    inputs["prefix"] = rng.integers(0, keys + 1, 2)
    inputs["mask"] = rng.random((2, keys) if spec.mask == "key_padding" else (2, 1, queries, keys)) > 0.5
    inputs["mask"][-1] = False
    if spec.mask == "document":
        inputs["mask"] = rng.integers(-1, 2, (2, keys))
        inputs["mask"][-1] = -2
    return {name: inputs[name] for name in spec.input_names}


@given(
    pattern=st.sampled_from(PATTERNS),
    mask=st.sampled_from(["none", "key_padding", "dense", "document"]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 1.5]),
    score=st.sampled_from(["dot", "additive"]),
    kind=st.sampled_from(["softmax", "sink", "sigmoid"]),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    lengths=st.sampled_from([(1, 1), (1, 4), (3, 3), (4, 2), (2, 5)]),
    seed=st.integers(0, 99),
)
def test_formula_is_the_definition(
    heads: tuple[int, int], kind: str, lengths: tuple[int, int], seed: int, **fields: Any
) -> None:
    group, kv_heads = heads
    normalizer = Sigmoid() if kind == "sigmoid" else Softmax()
    spec = SoftmaxAttention(group * kv_heads, kv_heads, 3, 2, scale=0.7, sink=kind == "sink", normalizer=normalizer, **fields)
    queries, keys = lengths if spec.mask != "document" else (lengths[1],) * 2
    inputs = drawn(spec, queries, keys, seed)
    got = softmax_attention(**inputs, spec=spec)
    np.testing.assert_allclose(got, by_definition(spec, inputs), rtol=1e-12, atol=1e-13)


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
