"""Each variant against an independent implementation, and what is particular about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from edgeattn.errors import SpecError, UsageError
from edgeattn.models.attention.causal import CausalAttention
from edgeattn.models.attention.cross import CrossAttention
from edgeattn.models.attention.grouped_query import GroupedQueryAttention
from edgeattn.models.attention.multi_head import MultiHeadAttention
from edgeattn.models.attention.multi_query import MultiQueryAttention
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.attention.scaled_dot_product import ScaledDotProductAttention
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.spec import Causal, SlidingWindow, SoftmaxAttention


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def torch_twin(module: ProjectedAttention) -> nn.MultiheadAttention:
    """nn.MultiheadAttention with the same weights, key/value heads repeated for each query head they serve."""
    spec, context = module.spec, module.k_proj.in_features
    twin = nn.MultiheadAttention(module.q_proj.in_features, spec.q_heads, kdim=context, vdim=context, batch_first=True)
    weights, biases = [], []
    for linear, repeats in ((module.q_proj, 1), (module.k_proj, spec.group), (module.v_proj, spec.group)):
        per_head = linear.weight.detach().unflatten(0, (-1, spec.head_dim))  # type: ignore[no-untyped-call]
        weights.append(per_head.repeat_interleave(repeats, 0).flatten(0, 1))
        bias = linear.bias.detach().unflatten(0, (-1, spec.head_dim))  # type: ignore[no-untyped-call]
        biases.append(bias.repeat_interleave(repeats, 0).flatten())
    state = {"in_proj_bias": torch.cat(biases)}
    if twin.in_proj_weight is not None:
        state["in_proj_weight"] = torch.cat(weights)
    else:
        state |= dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), weights, strict=True))
    state |= {f"out_proj.{name}": value for name, value in module.out_proj.state_dict().items()}
    twin.load_state_dict(state)
    return twin


RNG = torch.Generator().manual_seed(0)
X, OTHER, CONTEXT = (torch.randn(size, generator=RNG) for size in ((2, 5, 12), (2, 7, 12), (2, 7, 6)))
KEEP = torch.tensor([[True] * 4 + [False], [False, True, True, False, True]])
FUTURE = torch.ones(5, 5, dtype=torch.bool).triu(1)
BEFORE_LAST = torch.ones(5, 5, dtype=torch.bool).tril(-2)

TWINS: list[tuple[ProjectedAttention, tuple[Tensor, ...], dict[str, Any]]] = [
    (SelfAttention(12), (X, X, X), {}),
    (SelfAttention(12, 3, mask="key_padding"), (X, X, X), {"key_padding_mask": ~KEEP}),
    (CrossAttention(12, 4, context_dim=6), (X, CONTEXT, CONTEXT), {}),
    (MultiHeadAttention(12, 4), (X, OTHER, OTHER.flip(1)), {}),
    (MultiHeadAttention(12, 4, mask="key_padding"), (X, X, X), {"key_padding_mask": ~KEEP}),
    (GroupedQueryAttention(12, 4, 2), (X, OTHER, OTHER), {}),
    (MultiQueryAttention(12, 6), (X, X, X), {}),
    (CausalAttention(12, 4), (X, X, X), {"attn_mask": FUTURE}),
    (CausalAttention(12, 6, num_kv_heads=3), (X, X, X), {"attn_mask": FUTURE}),
    (CausalAttention(12, 4, window=2), (X, X, X), {"attn_mask": FUTURE | BEFORE_LAST}),
]


@pytest.mark.parametrize(("module", "qkv", "masks"), TWINS, ids=lambda x: type(x).__name__)
def test_same_as_nn_multihead_attention(module: ProjectedAttention, qkv: tuple[Tensor, ...], masks: dict[str, Any]) -> None:
    expected, _ = torch_twin(module)(*qkv, need_weights=False, **masks)
    distinct = {MultiHeadAttention: 3, GroupedQueryAttention: 3, MultiQueryAttention: 3, CrossAttention: 2}
    args = qkv[: distinct.get(type(module), 1)]
    mask = ~masks["key_padding_mask"] if "key_padding_mask" in masks else None
    torch.testing.assert_close(module(*args, mask=mask), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "module", [GroupedQueryAttention(12, 6, 2, head_dim=5, value_head_dim=3, scale=0.7), MultiQueryAttention(12, 4, bias=False)]
)
def test_same_as_sdpa_with_grouped_heads(module: ProjectedAttention) -> None:
    spec = module.spec
    q, k, v = (
        F.linear(x, linear.weight, linear.bias).reshape(2, x.shape[1], heads, -1).transpose(1, 2)
        for x, linear, heads in (
            (X, module.q_proj, spec.q_heads),
            (OTHER, module.k_proj, spec.kv_heads),
            (OTHER, module.v_proj, spec.kv_heads),
        )
    )
    context = F.scaled_dot_product_attention(q, k, v, scale=spec.scale, enable_gqa=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(X, OTHER), F.linear(context, module.out_proj.weight, module.out_proj.bias))


def test_keys_default_to_queries_and_values_to_keys() -> None:
    module = MultiHeadAttention(12, 3)
    torch.testing.assert_close(module(X), module(X, X, X))
    torch.testing.assert_close(module(X, OTHER), module(X, OTHER, OTHER))


@pytest.mark.parametrize("window", [None, 1, 2, 3, 9])
def test_causality_by_perturbation(window: int | None) -> None:
    module = CausalAttention(12, 4, window=window)
    base = module(X)
    for j in range(5):
        changed = X.clone()
        changed[:, j] += 1
        moved = (module(changed) != base).any(dim=2).all(dim=0)
        expected = [i >= j and (window is None or i - j < window) for i in range(5)]
        assert moved.tolist() == expected


def test_specs_say_what_was_asked_for() -> None:
    assert CausalAttention(12).spec.pattern == Causal()
    assert CausalAttention(12, window=4).spec.pattern == SlidingWindow(3, 0)
    assert MultiQueryAttention(12, 4).spec.kv_heads == 1
    assert MultiHeadAttention(12, 4).spec.kv_heads == 4
    assert SelfAttention(12).spec.q_heads == 1
    assert GroupedQueryAttention(10, 4, 2, head_dim=3).spec.head_dim == 3
    assert ScaledDotProductAttention(4, 3, pattern=Causal("lower_right")).spec.pattern == Causal("lower_right")


def test_shared_options_reach_the_spec() -> None:
    module = SelfAttention(
        12, 3, head_dim=5, value_head_dim=2, scale=0.5, softcap=9.0, mask="dense", score_bias=True, bias=False
    )
    assert module.spec == SoftmaxAttention(3, 3, 5, 2, scale=0.5, softcap=9.0, mask="dense", bias=True)
    assert all(linear.bias is None for linear in module.children())


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match=r"embed_dim \(10\) must be a multiple of num_heads \(4\), or head_dim be given"):
        MultiHeadAttention(10, 4)
    with pytest.raises(UsageError, match=r"window must be at least 1 \(the position itself\), got 0"):
        CausalAttention(12, window=0)
    with pytest.raises(SpecError, match=r"q_heads \(4\) must be a multiple of kv_heads \(3\)"):
        GroupedQueryAttention(12, 4, 3)
    with pytest.raises(SpecError, match="mask must be one of none, key_padding, dense, document, got 'padding'"):
        SelfAttention(12, mask="padding")  # type: ignore[arg-type]


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"query must be \(batch, length, 12\), got sizes \(2, 5, 6\)"):
        SelfAttention(12)(torch.zeros(2, 5, 6))
    with pytest.raises(UsageError, match=r"key must be \(batch, length, 6\), got sizes \(2, 7, 12\)"):
        CrossAttention(12, context_dim=6)(X, OTHER)
    with pytest.raises(UsageError, match=r"query must be \(batch, length, 12\), got sizes \(5, 12\)"):
        SelfAttention(12)(X[0])
    with pytest.raises(UsageError, match="mask was given, but the spec has mask='none'"):
        SelfAttention(12)(X, KEEP)
