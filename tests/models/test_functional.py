"""`attention`, the torch formula and the numpy formula against each other and against scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from edgeattn import naive as numpy_naive
from edgeattn.errors import UsageError
from edgeattn.models.attention import naive as torch_naive
from edgeattn.models.functional import attention
from edgeattn.spec import (
    AttentionSpec,
    BlockSparse,
    Causal,
    Dilated,
    Entmax15,
    Fixed,
    Full,
    GlobalLocal,
    MaskKind,
    Normalizer,
    Pattern,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    Softmax,
    SoftmaxAttention,
    Sparsemax,
    Strided,
    TopK,
    to_json,
)

OPERANDS = ("q", "k", "v", "mask", "bias", "sink", "score_weight", "prefix")


@dataclass(frozen=True)
class Case:
    """A spec and the inputs it names, floats in float64."""

    spec: AttentionSpec
    inputs: dict[str, Tensor]

    def run(self, function: Callable[..., Tensor], **changed: Tensor) -> Tensor:
        """`function` of these inputs, some of them replaced."""
        return function(**(self.inputs | changed), spec=self.spec)

    def leaves(self) -> dict[str, Tensor]:
        """Fresh copies of the float inputs, with gradients wanted."""
        return {name: x.clone().requires_grad_() for name, x in self.inputs.items() if x.is_floating_point()}


def make_case(spec: AttentionSpec, batch: int = 2, queries: int = 3, keys: int = 5, seed: int = 0) -> Case:
    """Random inputs; the first query of the last batch row sees nothing where there is a mask."""
    rng = torch.Generator().manual_seed(seed)
    if spec.mask == "document":
        queries = keys

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=rng, dtype=torch.float64)

    def mask() -> Tensor:
        if spec.mask == "document":
            numbers = torch.randint(-1, 3, (batch, keys), generator=rng)
            numbers[-1, 0] = -2
            return numbers
        dense = spec.mask == "dense"
        shown = torch.rand((batch, 1, queries, keys) if dense else (batch, keys), generator=rng) > 0.4
        shown[(-1, slice(None), 0) if dense else -1] = False
        return shown

    draws: dict[str, Callable[[], Tensor]] = {
        "q": lambda: 2 * normal(batch, spec.q_heads, queries, spec.head_dim),
        "k": lambda: 2 * normal(batch, spec.kv_heads, keys, spec.head_dim),
        "v": lambda: normal(batch, spec.kv_heads, keys, spec.value_head_dim),
        "mask": mask,
        "bias": lambda: normal(1, spec.q_heads, queries, keys),
        "sink": lambda: normal(spec.q_heads),
        "score_weight": lambda: 3 * normal(spec.q_heads, spec.head_dim),
        "prefix": lambda: torch.randint(0, keys + 2, (batch,), generator=rng),
    }
    return Case(spec, {name: draws[name]() for name in spec.input_names})


def operator(spec: AttentionSpec, **inputs: Tensor) -> Tensor:
    """The operator that an exported program holds, called in eager mode."""
    out: Tensor = torch.ops.edgeattn.attention(*(inputs.get(name) for name in OPERANDS), to_json(spec))
    return out


EIGHT = ("1100", "0110", "0011", "1001")
alignments = st.sampled_from(["upper_left", "lower_right"])
limits, few = st.integers(0, 3), st.integers(1, 3)
patterns: st.SearchStrategy[Pattern] = st.one_of(
    st.just(Full()),
    st.just(PrefixLM()),
    st.builds(Causal, alignments),
    st.builds(SlidingWindow, limits, limits | st.none(), alignments),
    st.builds(SlidingWindow, st.none(), few, alignments),
    st.builds(Dilated, limits, limits, st.integers(2, 3)),
    st.builds(GlobalLocal, limits, limits, few),
    st.builds(GlobalLocal, limits, st.just(0), few, st.just(True)),
    st.builds(Strided, few),
    st.builds(Fixed, st.just(3), few),
    st.builds(BlockSparse, st.just(2), st.just((EIGHT,)), st.booleans()),
)
normalizers: st.SearchStrategy[Normalizer] = st.one_of(
    st.just(Softmax()),
    st.builds(Sigmoid, st.sampled_from([None, 0.0, -1.5])),
    st.just(Sparsemax()),
    st.just(Entmax15()),
    st.builds(TopK, st.integers(1, 9)),
)


@st.composite
def specs(draw: st.DrawFn, for_sdpa: bool = False) -> AttentionSpec:
    kv_heads = draw(st.integers(1, 3))
    normalizer = Softmax() if for_sdpa else draw(normalizers)
    return SoftmaxAttention(
        q_heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([1, 3, 4, 8])),
        value_head_dim=draw(st.sampled_from([0, 1, 5])),
        scale=draw(st.sampled_from([0.0, 0.3])),
        pattern=draw(patterns),
        softcap=None if for_sdpa else draw(st.sampled_from([None, 1.5])),
        mask=draw(st.sampled_from(["none", "key_padding", "dense", "document"])),
        bias=draw(st.booleans()),
        sink=not for_sdpa and isinstance(normalizer, Softmax) and draw(st.booleans()),
        score="dot" if for_sdpa else draw(st.sampled_from(["dot", "additive"])),
        normalizer=normalizer,
    )


lengths = st.sampled_from([1, 2, 3, 5, 7])
cases = st.builds(make_case, specs(), st.integers(1, 2), lengths, lengths, st.integers(0, 99))
cases_for_sdpa = st.builds(make_case, specs(for_sdpa=True), st.integers(1, 2), lengths, lengths, st.integers(0, 99))


def shown_pairs(case: Case) -> Tensor:
    """Bool (B, H, S, T) with every way to hide a key spelled out, one pair at a time for the masks."""
    (batch, heads, queries, _), keys = case.inputs["q"].shape, case.inputs["k"].shape[2]
    mask, prefix = case.inputs.get("mask"), case.inputs.get("prefix")
    by_pattern = numpy_naive.visible(case.spec.pattern, queries, keys, None if prefix is None else prefix.numpy())
    shown = torch.tensor(np.broadcast_to(by_pattern, (batch, heads, queries, keys)))
    if mask is None:
        return shown
    for b, i, j in np.ndindex(batch, queries, keys):
        if case.spec.mask == "document":
            shown[b, :, i, j] &= bool(mask[b, i] == mask[b, j] and mask[b, j] >= 0)
        else:
            shown[b, :, i, j] &= mask[b, j] if case.spec.mask == "key_padding" else mask[b, 0, i, j]
    return shown


def sdpa_oracle(case: Case) -> Tensor:
    """torch's own attention, with everything that hides a key as one additive mask."""
    added = torch.where(shown_pairs(case), case.inputs.get("bias", torch.zeros(())).double(), -torch.inf)
    q, k, v = (case.inputs[name] for name in "qkv")
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=case.spec.scale, enable_gqa=True)


@given(cases)
def test_torch_formula_is_the_numpy_formula(case: Case) -> None:
    arrays = {name: x.numpy() for name, x in case.inputs.items()}
    expected = numpy_naive.softmax_attention(**arrays, spec=case.spec)
    np.testing.assert_allclose(case.run(torch_naive.softmax_attention).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@given(case=cases)
def test_narrow_floats_keep_their_type_and_come_near(dtype: torch.dtype, case: Case) -> None:
    """A softmax carries errors of the scores over, so they are kept small; a choice (top-k) may fall otherwise between equals."""
    assume(not isinstance(case.spec.normalizer, TopK))
    small = {name: x / 4 if x.is_floating_point() else x for name, x in case.inputs.items()}
    narrow = {name: x.to(dtype) if x.is_floating_point() else x for name, x in small.items()}
    wide = {name: x.double() if x.is_floating_point() else x for name, x in narrow.items()}
    got = replace(case, inputs=narrow).run(attention)
    assert got.dtype == dtype
    expected = replace(case, inputs=wide).run(torch_naive.softmax_attention)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)


@given(cases_for_sdpa)
def test_torch_formula_is_sdpa(case: Case) -> None:
    torch.testing.assert_close(case.run(torch_naive.softmax_attention), sdpa_oracle(case), rtol=1e-10, atol=1e-12)


PATTERNS: list[Pattern] = [
    Full(),
    Causal(),
    Causal("lower_right"),
    PrefixLM(),
    SlidingWindow(1, 0),
    SlidingWindow(1, 1, "lower_right"),
    SlidingWindow(None, 1),
    SlidingWindow(2, None),
    Dilated(1, 1, 2),
    GlobalLocal(1, 0, 1),
    Strided(2),
    Fixed(2),
    BlockSparse(2, (("100", "011", "110"), ("011", "000", "101")) * 2),
]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (3, 5), (4, 4), (5, 3)])
@pytest.mark.parametrize("mask", ["none", "key_padding", "dense", "document"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.summary())
def test_every_way_of_hiding_keys_is_sdpa(pattern: Pattern, mask: MaskKind, queries: int, keys: int) -> None:
    # Chance may miss one of the ways that `attention` takes; this does not.
    for bias in (False, True):
        case = make_case(SoftmaxAttention(4, 2, 3, pattern=pattern, mask=mask, bias=bias), 2, queries, keys)
        torch.testing.assert_close(case.run(attention), sdpa_oracle(case), rtol=1e-10, atol=1e-12)


@given(cases)
def test_attention_and_its_operator_are_the_formula_with_its_gradients(case: Case) -> None:
    ways = []
    for function in (torch_naive.softmax_attention, attention, operator):
        leaves = case.leaves()
        out = case.run(function, **leaves)
        ways.append([out, *torch.autograd.grad((out * out.detach().cos()).sum(), list(leaves.values()))])
    for got in ways[1:]:
        for one, expected in zip(got, ways[0], strict=True):
            assert one.isfinite().all()
            torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-11)


HARD_SPECS = [
    SoftmaxAttention(4, 2, 3, 5, pattern=Causal()),
    SoftmaxAttention(2, 2, 4, softcap=1.5, mask="key_padding"),
    SoftmaxAttention(2, 1, 3, pattern=SlidingWindow(1, 1, "lower_right"), mask="dense", bias=True),
    SoftmaxAttention(3, 3, 2, pattern=Causal("lower_right"), softcap=2.0, mask="dense", bias=True),
    SoftmaxAttention(2, 1, 3, pattern=PrefixLM(), mask="document", sink=True),
    SoftmaxAttention(2, 1, 3, mask="key_padding", bias=True, score="additive", softcap=2.0),
    SoftmaxAttention(2, 2, 3, pattern=Dilated(1, 1, 2), mask="key_padding", normalizer=Sigmoid()),
    SoftmaxAttention(2, 1, 3, pattern=GlobalLocal(0, 1, 1), mask="dense", normalizer=Sparsemax()),
    SoftmaxAttention(2, 2, 3, pattern=Fixed(2), mask="key_padding", bias=True, normalizer=Entmax15()),
    SoftmaxAttention(2, 1, 3, pattern=Strided(2), mask="dense", normalizer=TopK(2)),
    SoftmaxAttention(2, 2, 3, pattern=BlockSparse(2, (("101", "010", "111"), ("000", "111", "001"))), normalizer=Entmax15()),
]


@pytest.mark.parametrize("spec", HARD_SPECS, ids=lambda spec: spec.summary())
def test_gradients_by_finite_differences(spec: AttentionSpec) -> None:
    case = make_case(spec)
    leaves = case.leaves()
    for function in (attention, operator):

        def of_leaves(*xs: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            return case.run(function, **dict(zip(leaves, xs, strict=True)))

        assert torch.autograd.gradcheck(of_leaves, tuple(leaves.values()))


SLOWLY = [pytest.param(spec, marks=pytest.mark.slow) for spec in (*HARD_SPECS[:4], *HARD_SPECS[5:])]


@pytest.mark.parametrize("spec", [HARD_SPECS[4], *SLOWLY], ids=lambda spec: spec.summary())
def test_operator_keeps_the_rules_of_torch(spec: AttentionSpec) -> None:
    case = make_case(spec)
    inputs = case.inputs | case.leaves()
    operands = (*(inputs.get(name) for name in OPERANDS), to_json(spec))
    torch.library.opcheck(torch.ops.edgeattn.attention.default, operands)


def test_operator_gives_no_gradient_to_what_wants_none() -> None:
    case = make_case(HARD_SPECS[4])
    q, sink = (case.inputs[name].clone().requires_grad_() for name in ("q", "sink"))
    torch.autograd.backward(case.run(operator, q=q, sink=sink).sum())
    assert q.grad is not None
    assert sink.grad is not None
    assert case.inputs["k"].grad is None


FAMILY: list[AttentionSpec] = [
    *(SoftmaxAttention(2, 1, 4, softcap=softcap) for softcap in (None, 2.0)),
    SoftmaxAttention(2, 1, 4, sink=True),
    SoftmaxAttention(2, 1, 4, score="additive"),
    *(SoftmaxAttention(2, 1, 4, normalizer=n) for n in (Sigmoid(), Sigmoid(1.0), Sparsemax(), Entmax15(), TopK(1), TopK(3))),
]


@pytest.mark.parametrize("mask", ["key_padding", "dense", "document"])
@pytest.mark.parametrize("spec", FAMILY, ids=lambda spec: spec.summary())
def test_query_that_sees_no_key_gives_zeros_and_no_nan_gradient(spec: AttentionSpec, mask: MaskKind) -> None:
    case = make_case(replace(spec, mask=mask))
    leaves = case.leaves()
    out = case.run(attention, **leaves)
    assert out[-1, :, 0].eq(0).all()
    assert out.ne(0).any()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.square().sum(), list(leaves.values())))


@pytest.mark.parametrize("spec", FAMILY, ids=lambda spec: spec.summary())
def test_bias_of_minus_infinity_hides_a_key(spec: AttentionSpec) -> None:
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0] = True
    hidden[1, 2:] = True
    case = make_case(replace(spec, bias=True))
    bias = torch.zeros(3, 5, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    leaves = case.leaves() | {"bias": bias.requires_grad_()}
    out = case.run(attention, **leaves)
    masked = Case(replace(spec, mask="dense"), {name: x for name, x in case.inputs.items() if name != "bias"})
    torch.testing.assert_close(out, masked.run(attention, mask=~hidden))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.square().sum(), list(leaves.values())))


def test_autocast_may_mix_dtypes_but_plain_calls_may_not() -> None:
    case = make_case(SoftmaxAttention(2, 2, 4))
    q, k, v = case.inputs["q"].float(), case.inputs["k"].bfloat16(), case.inputs["v"].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(q, k, v, case.spec).dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"one dtype, got torch\.float32, torch\.bfloat16"):
        attention(q, k, v, case.spec)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_dense_mask_and_bias_broadcast_from_any_rank(axes: int) -> None:
    case = make_case(SoftmaxAttention(2, 2, 4, mask="dense", bias=True), batch=1)
    mask, bias = case.inputs["mask"][0, 0], case.inputs["bias"][0, 0]
    full = case.run(attention, mask=mask.expand(1, 2, 3, 5), bias=bias.expand(1, 2, 3, 5))
    mask, bias = (x[(None,) * (axes - 2)] for x in (mask, bias))
    torch.testing.assert_close(case.run(attention, mask=mask, bias=bias), full)
