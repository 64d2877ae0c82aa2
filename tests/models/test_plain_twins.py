"""Variants against their formula in plain torch, written here once more: outputs, and the gradient of every parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeattn.models import create
from edgeattn.models.attention.additive import AdditiveAttention
from edgeattn.models.attention.luong_dot import LuongDotAttention
from edgeattn.models.attention.luong_general import LuongGeneralAttention
from edgeattn.models.attention.projected import ProjectedAttention
from edgeattn.models.attention.sink import LearnedSinkAttention

GENERATOR = torch.Generator().manual_seed(0)
X, Y, CONTEXT = (torch.randn(size, generator=GENERATOR, dtype=torch.float64) for size in ((2, 9, 12), (2, 9, 12), (2, 11, 7)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def softmax_over(sees: Callable[[int, int], bool]) -> Callable[[Tensor], Tensor]:
    """A softmax over the keys j that query i sees."""

    def weigh(scores: Tensor) -> Tensor:
        shown = torch.tensor([[sees(i, j) for j in range(scores.shape[-1])] for i in range(scores.shape[-2])])
        return torch.softmax(scores.masked_fill(~shown, -torch.inf), dim=-1)

    return weigh


def support(scores: Tensor, power: float) -> Tensor:
    """Which weights max(score - tau, 0)^power are not 0, with tau by bisection so that they sum to 1."""
    z = scores.detach().numpy()
    low, high = z.max(-1, keepdims=True) - 1, z.max(-1, keepdims=True)
    for _ in range(80):
        tau = (low + high) / 2
        over = (np.maximum(z - tau, 0) ** power).sum(-1, keepdims=True) > 1
        low, high = np.where(over, tau, low), np.where(over, high, tau)
    return torch.from_numpy(z > high)


def sparsemax(scores: Tensor) -> Tensor:
    inside = support(scores, 1)
    tau = ((scores * inside).sum(-1, keepdim=True) - 1) / inside.sum(-1, keepdim=True)
    return (scores - tau) * inside


def entmax15(scores: Tensor) -> Tensor:
    """(score / 2 - tau)^2 on the support; the tau that makes the sum 1 solves a quadratic equation."""
    z = scores / 2
    inside = support(z, 2)
    count = inside.sum(-1, keepdim=True)
    mean = (z * inside).sum(-1, keepdim=True) / count
    variance = ((z - mean).square() * inside).sum(-1, keepdim=True)
    return (z - mean + ((1 - variance) / count).sqrt()).square() * inside


def top_2(scores: Tensor) -> Tensor:
    best = scores.topk(2, dim=-1)
    return torch.zeros_like(scores).scatter(-1, best.indices, torch.softmax(best.values, dim=-1))


CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "block_sparse": (
        {"block": 4, "layout": [["101", "110", "011"]]},
        softmax_over(lambda i, j: (j // 4 - i // 4) % 3 in (0, 2)),
    ),
    "dilated": ({"left": 2, "right": 1, "dilation": 3}, softmax_over(lambda i, j: j - i in (-6, -3, 0, 3))),
    "entmax": ({"scale": 3.0}, entmax15),
    "fixed": ({"block": 4, "columns": 2}, softmax_over(lambda i, j: j <= i and (i // 4 == j // 4 or j % 4 in (2, 3)))),
    "global_local": ({"left": 1, "right": 2, "tokens": 2}, softmax_over(lambda i, j: -1 <= j - i <= 2 or min(i, j) < 2)),
    "sigmoid": ({}, lambda scores: torch.sigmoid(scores - math.log(9))),
    "sink_tokens": ({"left": 2, "tokens": 2}, softmax_over(lambda i, j: j <= i and (i - j <= 2 or j < 2))),
    "sliding_window": ({"left": 3}, softmax_over(lambda i, j: -3 <= j - i <= 0)),
    "softcap": ({"softcap": 0.3}, lambda scores: torch.softmax(0.3 * torch.tanh(scores / 0.3), dim=-1)),
    "sparsemax": ({"scale": 3.0}, sparsemax),
    "strided": ({"stride": 3}, softmax_over(lambda i, j: j <= i and (i - j < 3 or (i - j) % 3 == 0))),
    "top_k": ({"k": 2}, top_2),
}


def gradients(module: nn.Module, out: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    (out * Y[..., : out.shape[-1]]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def check(module: nn.Module, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected)
    grads = gradients(module, got)
    assert set(grads) == {name for name, _ in module.named_parameters()}
    torch.testing.assert_close(grads, gradients(module, expected))


def joined(module: ProjectedAttention, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    q, k, v = module.project(X, X, X)
    return module.join(weigh(module.spec.scale * q @ k.transpose(-1, -2)) @ v)


@pytest.mark.parametrize("name", CASES)
def test_self_attention_by_other_patterns_and_normalizers(name: str) -> None:
    options, weigh = CASES[name]
    module = create(name, embed_dim=12, num_heads=3, **options).double()
    assert isinstance(module, ProjectedAttention)
    check(module, module(X), joined(module, weigh))


def test_two_sided_windows() -> None:
    module = create("sliding_window", embed_dim=12, num_heads=3, left=1, right=3).double()
    assert isinstance(module, ProjectedAttention)
    check(module, module(X), joined(module, softmax_over(lambda i, j: -1 <= j - i <= 3)))


def test_prefix_is_seen_by_all() -> None:
    module = create("prefix_lm", embed_dim=12, num_heads=3).double()
    assert isinstance(module, ProjectedAttention)
    out = module(X, torch.tensor([4, 4]))
    check(module, out, joined(module, softmax_over(lambda i, j: j <= i or j < 4)))
    check(module, module(X, torch.tensor([0, 0])), joined(module, softmax_over(lambda i, j: j <= i)))


@pytest.mark.parametrize("causal", [True, False])
def test_documents_do_not_see_each_other(causal: bool) -> None:
    module = create("document", embed_dim=12, num_heads=3, causal=causal).double()
    assert isinstance(module, ProjectedAttention)
    number = [0, 0, 0, 7, 7, 3, 3, 3, 0]
    weigh = softmax_over(lambda i, j: number[i] == number[j] and (j <= i or not causal))
    check(module, module(X, torch.tensor([number, number])), joined(module, weigh))


def test_sink_takes_its_share() -> None:
    module = LearnedSinkAttention(12, 3).double()
    assert module.sink is not None
    module.sink.data += torch.tensor([0.0, 1.0, -2.0])

    def weigh(scores: Tensor) -> Tensor:
        shares = torch.exp(scores)
        return shares / (shares.sum(dim=-1, keepdim=True) + torch.exp(module.sink)[:, None, None])  # type: ignore[arg-type]

    check(module, module(X), joined(module, weigh))


def test_additive() -> None:
    module = AdditiveAttention(12, 7, 5).double()
    assert module.score_weight is not None
    rows = [
        torch.stack(
            [torch.tanh(module.q_proj(X[:, i]) + module.k_proj(CONTEXT[:, j])) @ module.score_weight[0] for j in range(11)],
            dim=-1,
        )
        for i in range(9)
    ]
    check(module, module(X, CONTEXT), torch.softmax(torch.stack(rows, dim=1), dim=-1) @ CONTEXT)


def test_luong_general() -> None:
    module = LuongGeneralAttention(12, 7).double()
    scores = torch.einsum("bsi,oi,bto->bst", X, module.q_proj.weight, CONTEXT)
    check(module, module(X, CONTEXT), torch.softmax(scores, dim=-1) @ CONTEXT)


def test_luong_dot_has_no_scale_and_no_parameters() -> None:
    module = LuongDotAttention(12)
    assert not list(module.parameters())
    torch.testing.assert_close(module(X, Y), torch.softmax(X @ Y.transpose(1, 2), dim=-1) @ Y)
