"""`attention`, the torch formula and the numpy formula against each other and against scaled_dot_product_attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgeattn import naive as numpy_naive
from edgeattn.errors import UsageError
from edgeattn.models.attention import naive as torch_naive
from edgeattn.models.functional import attention
from edgeattn.spec import (
    AttentionSpec,
    Causal,
    Full,
    MaskKind,
    Pattern,
    SlidingWindow,
    SoftmaxAttention,
    to_json,
)


@dataclass(frozen=True)
class Case:
    """A spec and float64 tensors that fit it."""

    spec: AttentionSpec
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    bias: Tensor | None

    def leaves(self) -> list[Tensor]:
        """Fresh copies of the float inputs, with gradients wanted."""
        floats = [self.q, self.k, self.v, *([] if self.bias is None else [self.bias])]
        return [x.clone().requires_grad_() for x in floats]


def make_case(spec: AttentionSpec, batch: int = 2, queries: int = 3, keys: int = 5, seed: int = 0) -> Case:
    """Random inputs; the first query of the last batch row sees nothing where there is a mask."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=rng, dtype=torch.float64)

    mask = None
    if spec.mask == "key_padding":
        mask = torch.rand(batch, keys, generator=rng) > 0.4
        mask[-1] = False
    elif spec.mask == "dense":
        mask = torch.rand(batch, 1, queries, keys, generator=rng) > 0.4
        mask[-1, :, 0] = False
    return Case(
        spec=spec,
        q=2 * normal(batch, spec.q_heads, queries, spec.head_dim),
        k=2 * normal(batch, spec.kv_heads, keys, spec.head_dim),
        v=normal(batch, spec.kv_heads, keys, spec.value_head_dim),
        mask=mask,
        bias=normal(1, spec.q_heads, queries, keys) if spec.bias else None,
    )


alignments = st.sampled_from(["upper_left", "lower_right"])
limits = st.integers(0, 3)
patterns: st.SearchStrategy[Pattern] = st.one_of(
    st.just(Full()),
    st.builds(Causal, alignments),
    st.builds(SlidingWindow, limits, limits, alignments),
    st.builds(SlidingWindow, limits, st.none(), alignments),
    st.builds(SlidingWindow, st.none(), st.integers(1, 3), alignments),
)


@st.composite
def specs(draw: st.DrawFn, softcaps: st.SearchStrategy[float | None] = st.sampled_from([None, 1.5])) -> AttentionSpec:  # noqa: B008
    kv_heads = draw(st.integers(1, 3))
    return SoftmaxAttention(
        q_heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([1, 3, 4, 8])),
        value_head_dim=draw(st.sampled_from([0, 1, 5])),
        scale=draw(st.sampled_from([0.0, 0.3])),
        pattern=draw(patterns),
        softcap=draw(softcaps),
        mask=draw(st.sampled_from(["none", "key_padding", "dense"])),
        bias=draw(st.booleans()),
    )


lengths = st.sampled_from([1, 2, 3, 5, 7])
cases = st.builds(make_case, specs(), st.integers(1, 2), lengths, lengths, st.integers(0, 99))
cases_without_softcap = st.builds(make_case, specs(st.none()), st.integers(1, 2), lengths, lengths, st.integers(0, 99))


def sees(pattern: Pattern, query: int, key: int, offset: int) -> bool:
    """The definition of each pattern, one pair at a time."""
    if isinstance(pattern, Full):
        return True
    distance = key - query - (offset if getattr(pattern, "alignment", "upper_left") == "lower_right" else 0)
    if isinstance(pattern, Causal):
        return distance <= 0
    assert isinstance(pattern, SlidingWindow)
    return (pattern.left is None or distance >= -pattern.left) and (pattern.right is None or distance <= pattern.right)


def shown_by_definition(pattern: Pattern, queries: int, keys: int) -> Tensor:
    return torch.tensor([[sees(pattern, i, j, keys - queries) for j in range(keys)] for i in range(queries)])


def sdpa_oracle(case: Case) -> Tensor:
    """torch's own attention, with everything that hides a key spelled out as one additive mask."""
    spec = case.spec
    shown = shown_by_definition(spec.pattern, case.q.shape[2], case.k.shape[2])[None, None]
    if case.mask is not None:
        shown = shown & (case.mask if spec.mask == "dense" else case.mask[:, None, None, :])
    added = torch.zeros(()) if case.bias is None else case.bias
    added = torch.where(shown, added.double(), -torch.inf)
    return F.scaled_dot_product_attention(case.q, case.k, case.v, attn_mask=added, scale=spec.scale, enable_gqa=True)


@given(patterns, lengths, lengths)
def test_visible_is_the_definition(pattern: Pattern, queries: int, keys: int) -> None:
    expected = shown_by_definition(pattern, queries, keys)
    torch.testing.assert_close(torch_naive.visible(pattern, queries, keys), expected)
    np.testing.assert_array_equal(numpy_naive.visible(pattern, queries, keys), expected.numpy())


@given(cases)
def test_torch_formula_is_the_numpy_formula(case: Case) -> None:
    got = torch_naive.softmax_attention(case.q, case.k, case.v, case.spec, case.mask, case.bias)
    mask, bias = (None if x is None else x.numpy() for x in (case.mask, case.bias))
    expected = numpy_naive.softmax_attention(case.q.numpy(), case.k.numpy(), case.v.numpy(), case.spec, mask, bias)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-12)


@given(cases_without_softcap)
def test_torch_formula_is_sdpa(case: Case) -> None:
    got = torch_naive.softmax_attention(case.q, case.k, case.v, case.spec, case.mask, case.bias)
    torch.testing.assert_close(got, sdpa_oracle(case), rtol=1e-10, atol=1e-12)


PATTERNS: list[Pattern] = [
    Full(),
    Causal(),
    Causal("lower_right"),
    SlidingWindow(1, 0),
    SlidingWindow(1, 1, "lower_right"),
    SlidingWindow(None, 1),
    SlidingWindow(2, None),
]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (3, 5), (4, 4), (5, 3)])
@pytest.mark.parametrize("mask", ["none", "key_padding", "dense"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.summary())
def test_every_way_of_hiding_keys_is_sdpa(pattern: Pattern, mask: MaskKind, queries: int, keys: int) -> None:
    # Chance may miss one of the ways that `attention` takes; this does not.
    for bias in (False, True):
        case = make_case(SoftmaxAttention(4, 2, 3, pattern=pattern, mask=mask, bias=bias), 2, queries, keys)
        got = attention(case.q, case.k, case.v, case.spec, case.mask, case.bias)
        torch.testing.assert_close(got, sdpa_oracle(case), rtol=1e-10, atol=1e-12)


@given(cases)
def test_attention_is_the_formula_with_its_gradients(case: Case) -> None:
    ways = []
    for function in (attention, torch_naive.softmax_attention):
        leaves = case.leaves()
        q, k, v = leaves[:3]
        out = function(q, k, v, case.spec, case.mask, leaves[3] if case.spec.bias else None)
        ways.append([out, *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)])
    for got, expected in zip(*ways, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


HARD_SPECS = [
    SoftmaxAttention(4, 2, 3, 5, pattern=Causal()),
    SoftmaxAttention(2, 2, 4, softcap=1.5, mask="key_padding"),
    SoftmaxAttention(2, 1, 3, pattern=SlidingWindow(1, 1, "lower_right"), mask="dense", bias=True),
    SoftmaxAttention(3, 3, 2, pattern=Causal("lower_right"), softcap=2.0, mask="dense", bias=True),
]


@pytest.mark.parametrize("spec", HARD_SPECS, ids=lambda spec: spec.summary())
def test_gradients_by_finite_differences(spec: AttentionSpec) -> None:
    case = make_case(spec)

    def eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return attention(q, k, v, spec, case.mask, bias)

    def operator(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.edgeattn.attention(q, k, v, case.mask, bias, to_json(spec))
        return out

    assert torch.autograd.gradcheck(eager, case.leaves())
    assert torch.autograd.gradcheck(operator, case.leaves())


@pytest.mark.parametrize("spec", HARD_SPECS[1:3], ids=lambda spec: spec.summary())
def test_operator_keeps_the_rules_of_torch(spec: AttentionSpec) -> None:
    case = make_case(spec)
    leaves = case.leaves()
    bias = leaves[3] if spec.bias else None
    torch.library.opcheck(torch.ops.edgeattn.attention.default, (*leaves[:3], case.mask, bias, to_json(spec)))


def test_operator_gives_no_gradient_to_what_wants_none() -> None:
    spec = HARD_SPECS[0]
    case = make_case(spec)
    q = case.q.clone().requires_grad_()
    torch.ops.edgeattn.attention(q, case.k, case.v, None, None, to_json(spec)).sum().backward()
    assert q.grad is not None
    assert case.k.grad is None


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("kind", ["key_padding", "dense"])
def test_query_that_sees_no_key_gives_zeros_and_no_nan_gradient(softcap: float | None, kind: str) -> None:
    case = make_case(SoftmaxAttention(2, 1, 4, softcap=softcap, mask=kind))  # type: ignore[arg-type]
    q, k, v = leaves = case.leaves()
    out = attention(q, k, v, case.spec, case.mask)
    assert out[-1, :, 0].eq(0).all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.square().sum(), leaves))


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bias_of_minus_infinity_hides_a_key(softcap: float | None) -> None:
    case = make_case(SoftmaxAttention(2, 2, 4, softcap=softcap, bias=True))
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0] = True
    hidden[1, 2:] = True
    bias = torch.zeros(3, 5, dtype=torch.float64).masked_fill(hidden, -torch.inf).requires_grad_()
    q, k, v = case.leaves()[:3]
    out = attention(q, k, v, case.spec, None, bias)
    masked = attention(q, k, v, replace(case.spec, bias=False, mask="dense"), ~hidden)
    torch.testing.assert_close(out, masked)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.square().sum(), [q, k, v, bias]))


def test_autocast_may_mix_dtypes_but_plain_calls_may_not() -> None:
    case = make_case(SoftmaxAttention(2, 2, 4))
    q, k, v = case.q.float(), case.k.bfloat16(), case.v.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(q, k, v, case.spec).dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"one dtype, got torch\.float32, torch\.bfloat16"):
        attention(q, k, v, case.spec)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_dense_mask_and_bias_broadcast_from_any_rank(axes: int) -> None:
    case = make_case(SoftmaxAttention(2, 2, 4, mask="dense", bias=True), batch=1)
    assert case.mask is not None
    assert case.bias is not None
    mask, bias = case.mask[0, 0], case.bias[0, 0]
    full = attention(case.q, case.k, case.v, case.spec, mask.expand(1, 2, 3, 5), bias.expand(1, 2, 3, 5))
    ranked = [x[(None,) * (axes - 2)] for x in (mask, bias)]
    torch.testing.assert_close(attention(case.q, case.k, case.v, case.spec, *ranked), full)


SPEC = SoftmaxAttention(4, 2, 4, 3)
Q, K, V = torch.zeros(2, 4, 3, 4), torch.zeros(2, 2, 5, 4), torch.zeros(2, 2, 5, 3)
PADDING = torch.ones(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (Q[0], K, V, r"q must be \(B, H, S, D\), got 3 axes of sizes \(4, 3, 4\)"),
        (Q.long(), K, V, r"q must be of a float dtype, got torch\.int64; cast"),
        (Q[:, :3], K, V, r"heads of q: got 3, expected 4 \(spec\.q_heads\)"),
        (Q, K[:, :1], V, r"heads of k: got 1, expected 2 \(spec\.kv_heads\)"),
        (Q, K, V[:, :1], r"heads of v: got 1, expected 2 \(spec\.kv_heads\)"),
        (Q[..., :2], K, V, r"head size of q: got 2, expected 4 \(spec\.head_dim\)"),
        (Q, K[..., :2], V, r"head size of k: got 2, expected 4 \(spec\.head_dim\)"),
        (Q, K, V[..., :2], r"head size of v: got 2, expected 3 \(spec\.value_head_dim\)"),
        (Q, K[:1], V, r"batch of k: got 1, expected 2 \(the batch of q\)"),
        (Q, K, V[:1], r"batch of v: got 1, expected 2 \(the batch of q\)"),
        (Q, K, V[:, :, :4], r"length of v: got 4, expected 5 \(the length of k\)"),
    ],
)
def test_tensors_that_do_not_fit_the_spec(q: Tensor, k: Tensor, v: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(q, k, v, SPEC)


@pytest.mark.parametrize(
    ("spec", "mask", "message"),
    [
        (SPEC, PADDING, r"mask was given, but the spec has mask='none'"),
        (replace(SPEC, mask="key_padding"), None, r"mask is missing: the spec has mask='key_padding'"),
        (replace(SPEC, mask="key_padding"), PADDING.float(), r"mask must be bool \(True takes part\), got torch\.float32"),
        (replace(SPEC, mask="key_padding"), PADDING[None], r"must be \(B, T\), got sizes \(1, 2, 5\)"),
        (replace(SPEC, mask="key_padding"), PADDING[:1], r"batch of mask: got 1, expected 2"),
        (replace(SPEC, mask="key_padding"), PADDING[:, :4], r"length of mask: got 4, expected 5"),
        (replace(SPEC, mask="dense"), PADDING, r"mask of sizes \(2, 5\) cannot be broadcast .* \(2, 4, 3, 5\)"),
        (replace(SPEC, mask="dense"), PADDING[None, None, None, :1], r"cannot be broadcast"),
    ],
)
def test_masks_that_do_not_fit_the_spec(spec: AttentionSpec, mask: Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(Q, K, V, spec, mask)


@pytest.mark.parametrize(
    ("spec", "bias", "message"),
    [
        (SPEC, torch.zeros(3, 5), r"bias was given, but the spec has bias=False"),
        (replace(SPEC, bias=True), None, r"bias is missing: the spec has bias=True"),
        (replace(SPEC, bias=True), PADDING, r"bias must be of a float dtype, got torch\.bool; a bool belongs in mask"),
        (replace(SPEC, bias=True), torch.zeros(4, 5), r"bias of sizes \(4, 5\) cannot be broadcast"),
    ],
)
def test_biases_that_do_not_fit_the_spec(spec: AttentionSpec, bias: Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(Q, K, V, spec, bias=bias)


def test_something_else_than_a_spec() -> None:
    with pytest.raises(UsageError, match=r"spec must be an attention spec of .*, got dict"):
        attention(Q, K, V, {})  # type: ignore[arg-type]
