"""Attention written out by hand becomes a site; what has no spec is counted and named, and what only looks like it is not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites

SEQUENCE = {"x": {0: "batch", 1: "sequence"}}


class Written(nn.Module):
    """Attention written out, as many models still have it; `between` is what happens to the scores."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (2, 4)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        scores = self.between(q @ k.transpose(-1, -2))
        context: Tensor = scores.softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


class ByEinsum(Written):
    """The same through einsum."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (2, 4)) for proj in (self.q, self.k, self.v))
        scores = self.between(torch.einsum("bshd,bthd->bhst", q, k))
        return torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v).flatten(2)


def _future(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).triu(1)


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda s: s,
    "scale": lambda s: s / 2.0,
    "added": lambda s: s + torch.where(_future(s), -1e9, 0.0),
    "softcap": lambda s: 3 * torch.tanh(s / 3),
    "sign": lambda s: -s,
    "all": lambda s: (3 * torch.tanh(s * 0.5 / 3)).masked_fill(_future(s), -torch.inf),
}


SUMMARIES = {
    "nothing": "2 heads x 4, scale 1",
    "scale": "2 heads x 4",
    "added": "2 heads x 4, causal, scale 1",
    "softcap": "2 heads x 4, scale 1, softcap 3",
    "all": "2 heads x 4, causal, softcap 3",
    "einsum": "2 heads x 4, causal, softcap 3",
}


def test_attention_written_out_is_raised(captured: Callable[..., Any]) -> None:
    """Every way to write it, one after another in one model; a score with the wrong sign is no attention that a spec says."""
    blocks = {name: Written(between) for name, between in BETWEEN.items()} | {"einsum": ByEinsum(BETWEEN["all"])}
    model = nn.Sequential(OrderedDict(blocks))
    with torch.no_grad():  # far from uniform
        for block in blocks.values():
            block.q.weight.mul_(3)
    result = captured(model, {"input": torch.randn(2, 6, 8)}, {"input": SEQUENCE["x"]})
    assert {site.module: site.spec.summary() for site in find_sites(result.model)} == SUMMARIES
    assert unraised(result.model) == ["sign"]
    for batch, sequence in ((1, 1), (3, 2), (2, 9)):
        result.check(batch=batch, sequence=sequence)


class Weighing(Written):
    """Gives its weights away as well, which no fused form does."""

    def forward(self, x: Tensor) -> Any:
        q, k, v = (proj(x).unflatten(-1, (2, 4)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        return {"context": weights @ v, "weights": weights}


class WeaklyHidden(Written):
    """A fill so weak that a row with nothing else would still weigh its scores."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (2, 4)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2)
        context: Tensor = scores.masked_fill(x[:, None, None, :, 0] > 0, -10.0).softmax(-1) @ v
        return context


class OverQueries(Written):
    """A softmax over the queries instead of the keys."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (2, 4)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        context: Tensor = (q @ k.transpose(-1, -2)).softmax(-2) @ v
        return context


@pytest.mark.parametrize("block", [Weighing, WeaklyHidden, OverQueries])
def test_what_does_not_match_exactly_is_left_and_named(captured: Callable[..., Any], block: type[Written]) -> None:
    model = nn.Sequential(OrderedDict(block=block(lambda s: s)))
    result = captured(model, {"input": torch.randn(2, 6, 8)}, {"input": SEQUENCE["x"]})
    assert find_sites(result.model) == []
    assert unraised(result.model) == ["block"]
    result.check(batch=3, sequence=9)


class Head(nn.Module):
    """Softmaxes that are no attention: a classifier, and one whose probabilities meet weights."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.more = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        p = self.classes(x).softmax(-1)
        return {"p": p, "mixed": self.more(p).softmax(-1)}


class Experts(nn.Module):
    """A gate over experts: the softmax of a linear layer times computed values."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        said = torch.stack([expert(x) for expert in self.experts], -2)
        weights: Tensor = self.gate(x).softmax(-1)
        return (weights[..., None, :] @ said).squeeze(-2)


class Contrast(nn.Module):
    """A softmax of a product that multiplies nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.transpose(1, 2)).softmax(-1)


class NoAttention(nn.Module):
    """All three."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.experts, self.contrast = Head(), Experts(), Contrast()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {**self.head(x), "said": self.experts(x), "near": self.contrast(x)}


def test_a_softmax_that_is_no_attention_is_not_reported(captured: Callable[..., Any]) -> None:
    model = captured(NoAttention(), {"x": torch.randn(2, 6, 8)}, SEQUENCE).model
    assert len([node for node in model.graph if node.op_type == "Softmax"]) == 4
    assert unraised(model) == []
