"""What is hidden has no say, and what is visible has: by changing keys one at a time, and against torch's flex_attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

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
    Pattern,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    SoftmaxAttention,
    Sparsemax,
    Strided,
    TopK,
)

RNG = torch.Generator().manual_seed(0)
LENGTH = 9
DOCUMENTS = torch.tensor([[0, 0, 0, 4, 4, 0, -1, -1, -1], [-3, 7, 7, 2, 2, 2, 2, -3, 7]])
PREFIX = torch.tensor([4, 0])
PADDING = torch.tensor([[True] * 6 + [False] * 3, [False, True, True] * 3])
MASKS = {"key_padding": PADDING, "document": DOCUMENTS}
Shown = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""flex_attention's way to say who sees whom: (batch, head, query, key) -> bool."""

PER_HEAD = BlockSparse(3, (("100", "110", "101"), ("001", "010", "111")))
TABLES = torch.tensor([[[int(entry) for entry in row] for row in table] for table in PER_HEAD.layout])
PATTERNS: list[tuple[Pattern, Shown]] = [
    (Full(), lambda b, h, i, j: j >= 0),
    (Causal(), lambda b, h, i, j: j <= i),
    (SlidingWindow(2, 1), lambda b, h, i, j: (j >= i - 2) & (j <= i + 1)),
    (PrefixLM(), lambda b, h, i, j: (j <= i) | (j < PREFIX[b])),
    (Dilated(1, 2, 2), lambda b, h, i, j: (j == i - 2) | (j == i) | (j == i + 2) | (j == i + 4)),
    (GlobalLocal(1, 1, 2), lambda b, h, i, j: ((i - j).abs() <= 1) | (i < 2) | (j < 2)),
    (GlobalLocal(2, 0, 1, causal=True), lambda b, h, i, j: (j <= i) & ((i - j <= 2) | (j == 0))),
    (Strided(4), lambda b, h, i, j: (j <= i) & ((i - j < 4) | ((i - j).remainder(4) == 0))),
    (Fixed(4), lambda b, h, i, j: (j <= i) & ((j // 4 == i // 4) | (j == 3) | (j == 7))),
    (PER_HEAD, lambda b, h, i, j: TABLES[h, i // 3, j // 3] == 1),
]


def inputs(spec: AttentionSpec, queries: int = LENGTH, keys: int = LENGTH) -> dict[str, Any]:
    """What the spec names, floats in float64."""
    sizes = {
        "q": (2, spec.q_heads, queries, spec.head_dim),
        "k": (2, spec.kv_heads, keys, spec.head_dim),
        "v": (2, spec.kv_heads, keys, spec.value_head_dim),
        "sink": (spec.q_heads,),
        "score_weight": (spec.q_heads, spec.head_dim),
    }
    given: dict[str, Tensor] = {"mask": MASKS.get(spec.mask, PADDING), "prefix": PREFIX}
    return {
        name: given[name] if name in given else torch.randn(sizes[name], generator=RNG, dtype=torch.float64)
        for name in spec.input_names
    }


def allowed(spec: AttentionSpec, shown: Shown) -> Shown:
    """The pattern's rule with the mask's."""

    def both(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if spec.mask == "key_padding":
            return shown(b, h, i, j) & PADDING[b, j]
        if spec.mask == "document":
            return shown(b, h, i, j) & (DOCUMENTS[b, i] == DOCUMENTS[b, j]) & (DOCUMENTS[b, j] >= 0)
        return shown(b, h, i, j)

    return both


SLOWLY = [pytest.param(mask, marks=pytest.mark.slow) for mask in ("none", "key_padding")]


@pytest.mark.parametrize("mask", ["document", *SLOWLY])
@pytest.mark.parametrize(("pattern", "shown"), PATTERNS, ids=lambda x: x.summary() if hasattr(x, "summary") else "")
def test_same_as_flex_attention(pattern: Pattern, shown: Shown, mask: Any) -> None:
    spec = SoftmaxAttention(2, 1, 4, pattern=pattern, mask=mask)
    given = inputs(spec)
    blocks = create_block_mask(allowed(spec, shown), 2, 2, LENGTH, LENGTH, device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        expected = flex_attention(given["q"], given["k"], given["v"], block_mask=blocks, enable_gqa=True)
    torch.testing.assert_close(attention(**given, spec=spec), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mask", ["none", "key_padding", "document"])
@pytest.mark.parametrize(("pattern", "shown"), PATTERNS, ids=lambda x: x.summary() if hasattr(x, "summary") else "")
def test_a_changed_key_moves_who_sees_it_and_nobody_else(pattern: Pattern, shown: Shown, mask: Any) -> None:
    spec = SoftmaxAttention(2, 2, 4, pattern=pattern, mask=mask, sink=True)
    given = inputs(spec)
    base = attention(**given, spec=spec)
    places = torch.meshgrid(*(torch.arange(n) for n in (2, 2, LENGTH, LENGTH)), indexing="ij")
    seen = allowed(spec, shown)(*places)
    for key in range(LENGTH):
        for name in ("k", "v"):
            changed = given[name].clone()
            changed[:, :, key] += 1
            moved = (attention(**(given | {name: changed}), spec=spec) != base).any(dim=-1)
            assert torch.equal(moved, seen[..., key]), (name, key)


FAMILY = [
    SoftmaxAttention(2, 1, 4, mask="key_padding"),
    SoftmaxAttention(2, 1, 4, softcap=3.0, mask="key_padding"),
    SoftmaxAttention(2, 1, 4, sink=True, mask="key_padding"),
    SoftmaxAttention(2, 1, 4, score="additive", mask="key_padding"),
    *(SoftmaxAttention(2, 1, 4, normalizer=n, mask="key_padding") for n in (Sigmoid(), Sparsemax(), Entmax15(), TopK(3))),
]


@pytest.mark.parametrize("spec", FAMILY, ids=lambda spec: spec.summary())
def test_hidden_keys_and_values_may_be_huge(spec: AttentionSpec) -> None:
    """Padding may hold anything finite; NaN is not promised to vanish."""
    given = inputs(spec)
    hidden = ~PADDING[:, None, :, None]
    huge = {name: given[name].masked_fill(hidden, 1e30).requires_grad_() for name in ("k", "v")}
    out = attention(**(given | huge), spec=spec)
    assert torch.equal(out, attention(**given, spec=spec))
    for grad in torch.autograd.grad(out.square().sum(), list(huge.values())):
        assert grad.isfinite().all()
        assert grad.masked_select(hidden).eq(0).all()
        assert grad.masked_select(~hidden).ne(0).any()


def test_documents_are_attended_each_by_itself() -> None:
    """Positions of one document, taken out and put together, give what the packed row gives."""
    spec = SoftmaxAttention(2, 1, 4, mask="document", pattern=Full())
    alone = replace(spec, mask="none")
    given = inputs(spec)
    packed = attention(**given, spec=spec)
    for row in range(2):
        for number in set(DOCUMENTS[row].tolist()):
            places = DOCUMENTS[row] == number
            q, k, v = (given[name][row : row + 1, :, places] for name in "qkv")
            expected = attention(q, k, v, alone) if number >= 0 else torch.zeros_like(q)
            torch.testing.assert_close(packed[row : row + 1, :, places], expected)


@pytest.mark.parametrize("keys", [4, LENGTH])
def test_prefix_is_two_attentions(keys: int) -> None:
    """Within the prefix every query sees the whole prefix at least; a causal row sees its past beyond that."""
    spec = SoftmaxAttention(2, 2, 4, pattern=PrefixLM())
    given = inputs(spec, queries=6, keys=keys)
    out = attention(**given, spec=spec)
    for row, query in ((row, query) for row in range(2) for query in range(6)):
        end = min(max(query + 1, int(PREFIX[row])), keys)
        q, k, v = given["q"][row, :, query : query + 1], given["k"][row, :, :end], given["v"][row, :, :end]
        expected = torch.softmax(spec.scale * q @ k.mT, dim=-1) @ v
        torch.testing.assert_close(out[row, :, query : query + 1], expected)
