"""Partial attention and the merge of parts: wherever keys are cut, the parts make the whole."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeattn import naive as numpy_naive
from edgeattn.errors import SpecError, UsageError
from edgeattn.models.attention.naive import softmax_attention
from edgeattn.models.functional import attention
from edgeattn.models.partial import merge_partials, partial_attention
from edgeattn.spec import Causal, SoftmaxAttention, Sparsemax

PARTIAL = SoftmaxAttention(4, 2, 8, 6, mask="key_padding", bias=True, lse=True)
WHOLE = SoftmaxAttention(4, 2, 8, 6, mask="key_padding", bias=True)
SEES_NOTHING = (torch.zeros(2, 4, 3, 6), torch.full((2, 4, 3), -torch.inf))


def drawn(keys: int, seed: int, loud: float = 1.0) -> dict[str, Tensor]:
    """Batch 2, 3 queries; the second row of the batch is padding throughout."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"q": (2, 4, 3, 8), "k": (2, 2, keys, 8), "v": (2, 2, keys, 6), "bias": (1, 4, 3, keys)}
    tensors = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    mask = torch.rand(2, keys, generator=generator) < 0.7
    mask[1] = False
    return {**tensors, "q": loud * tensors["q"], "mask": mask}


def part(x: dict[str, Tensor], start: int, end: int) -> tuple[Tensor, Tensor]:
    keys = slice(start, end)
    return partial_attention(x["q"], x["k"][:, :, keys], x["v"][:, :, keys], PARTIAL, x["mask"][:, keys], x["bias"][..., keys])


@settings(max_examples=60)
@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 12), max_size=4),
    st.sampled_from([1.0, 300.0]),
    st.integers(0, 99),
    st.randoms(),
)
def test_parts_merge_to_the_whole(keys: int, cuts: list[int], loud: float, seed: int, shuffle: Any) -> None:
    x = drawn(keys, seed, loud)
    edges = sorted({0, keys, *(cut for cut in cuts if cut < keys)})
    parts = [part(x, start, end) for start, end in itertools.pairwise(edges)]
    shuffle.shuffle(parts)
    context, lse = parts[0]
    for other in parts[1:]:
        context, lse = merge_partials((context, lse), other)
    torch.testing.assert_close(context, attention(x["q"], x["k"], x["v"], WHOLE, x["mask"], x["bias"]))
    torch.testing.assert_close(lse, part(x, 0, keys)[1])


def test_log_sum_exp_is_that_of_the_scores() -> None:
    x = drawn(7, 3)
    _, lse = part(x, 0, 7)
    arrays = {name: x[name].numpy() for name in ("q", "k", "mask", "bias")}
    scores = numpy_naive.visible_scores(**arrays, spec=PARTIAL)
    torch.testing.assert_close(lse, torch.logsumexp(torch.from_numpy(scores), dim=-1))
    assert (lse[1] == -torch.inf).all()
    assert torch.from_numpy(numpy_naive.log_sum_exp(scores)).allclose(lse)


def test_a_part_that_sees_nothing_changes_nothing() -> None:
    seen = part(drawn(5, 1), 0, 5)
    for merged in (merge_partials(seen, SEES_NOTHING), merge_partials(SEES_NOTHING, seen)):
        torch.testing.assert_close(merged[0], seen[0])
        torch.testing.assert_close(merged[1], seen[1])
    both = merge_partials(SEES_NOTHING, SEES_NOTHING)
    assert not both[0].any()
    assert (both[1] == -torch.inf).all()


def test_gradients_through_a_merge_are_those_of_the_whole() -> None:
    x = drawn(6, 5)
    grads = []
    for merged in (True, False):
        leaves = {name: x[name].clone().requires_grad_() for name in ("q", "k", "v")}
        given_ = x | leaves
        if merged:
            out = merge_partials(part(given_, 0, 2), part(given_, 2, 6))[0]
        else:
            out = softmax_attention(given_["q"], given_["k"], given_["v"], WHOLE, x["mask"], x["bias"])
        (out**2).sum().backward()  # type: ignore[no-untyped-call]
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


def test_causal_parts_are_cut_at_the_diagonal() -> None:
    """Two sequences one after the other: the earlier keys are all visible, the later ones causally."""
    q, k, v = torch.randn(3, 1, 2, 9, 4, dtype=torch.float64).unbind()
    later, earlier = SoftmaxAttention(2, 2, 4, pattern=Causal(), lse=True), SoftmaxAttention(2, 2, 4, lse=True)
    merged, _ = merge_partials(
        partial_attention(q[:, :, 4:], k[:, :, :4], v[:, :, :4], earlier),
        partial_attention(q[:, :, 4:], k[:, :, 4:], v[:, :, 4:], later),
    )
    whole = attention(q, k, v, SoftmaxAttention(2, 2, 4, pattern=Causal()))
    torch.testing.assert_close(merged, whole[:, :, 4:])


def test_what_cannot_be_parted_is_refused() -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(UsageError, match="lse=True"):
        partial_attention(q, q, q, SoftmaxAttention(1, 1, 4))
    with pytest.raises(UsageError, match="partial_attention"):
        attention(q, q, q, SoftmaxAttention(1, 1, 4, lse=True))
    with pytest.raises(SpecError, match="a sink, which each part would count again"):
        SoftmaxAttention(1, 1, 4, lse=True, sink=True)
    with pytest.raises(SpecError, match="sparsemax"):
        SoftmaxAttention(1, 1, 4, lse=True, normalizer=Sparsemax())
