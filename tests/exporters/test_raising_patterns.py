"""Layouts in which attention is written out: heads folded into the batch, repeated keys, scales and biases in any place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites

DYNAMIC = {"x": {0: "batch", 1: "sequence"}}


class Projected(nn.Module):
    """Queries, keys and values of x (B, S, 24): three heads of eight; scores are several units."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        with torch.no_grad():
            self.q.weight.mul_(4)

    def heads(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """(B, 3, S, 8)."""
        heads: Tensor = linear(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        return heads


class Folded(Projected):
    """Heads and batch in one axis, as torch.bmm wants them."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear).flatten(0, 1) for linear in (self.q, self.k, self.v))
        context = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 8**0.5).softmax(-1), v)
        apart: Tensor = context.unflatten(0, (-1, 3))  # type: ignore[no-untyped-call]
        return apart.transpose(1, 2).flatten(2)


class FoldedWithBias(Projected):
    """The same, unfolded in between to add a bias of four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor([0.5, 1.0, 2.0])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear).flatten(0, 1) for linear in (self.q, self.k, self.v))
        scores = torch.bmm(q * 8**-0.5, k.transpose(1, 2)).unflatten(0, (-1, 3))  # type: ignore[no-untyped-call]
        places = torch.arange(x.shape[1])
        scores = scores - self.slopes * (places[:, None] - places).abs()
        context = torch.bmm(scores.softmax(-1).flatten(0, 1), v)
        apart: Tensor = context.unflatten(0, (-1, 3))  # type: ignore[no-untyped-call]
        return apart.transpose(1, 2).flatten(2)


class OneHead(Projected):
    """No heads at all: three axes."""

    def forward(self, x: Tensor) -> Tensor:
        context: Tensor = (self.q(x) @ self.k(x).mT / 24**0.5).softmax(-1) @ self.v(x)
        return context


class Repeated(Projected):
    """One key head for all three queries', repeated as older models do it."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(24, 8), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear) for linear in (self.q, self.k, self.v))
        k, v = (each[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for each in (k, v))
        context: Tensor = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


class Broadcast(Repeated):
    """The same, left to the product to broadcast."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear) for linear in (self.q, self.k, self.v))
        context: Tensor = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


class ScaledEverywhere(Projected):
    """A part of the scale on the queries before they are split, on the keys, and on the scores with their bias."""

    def forward(self, x: Tensor) -> Tensor:
        q = (self.q(x) * 0.5).unflatten(-1, (-1, 8)).transpose(1, 2)
        k, v = self.heads(x, self.k) * 0.25, self.heads(x, self.v)
        bias = torch.arange(x.shape[1]).float() * 0.1
        context: Tensor = ((q @ k.transpose(2, 3) + bias) * 2.0).softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


class Windowed(Projected):
    """Two masks one after the other: one finite, one not."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear) for linear in (self.q, self.k, self.v))
        places = torch.arange(x.shape[1])
        gap = places[:, None] - places
        scores = (q @ k.transpose(2, 3) * 8**-0.5).masked_fill(gap < 0, torch.finfo(torch.float32).min)
        context: Tensor = scores.masked_fill(gap > 2, -torch.inf).softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


class Unproven(Projected):
    """A mask that depends on the data: it stays a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, linear) for linear in (self.q, self.k, self.v))
        hidden = (x[:, None, None, :, 0] > 0) & (torch.arange(x.shape[1]) > 0)
        context: Tensor = (q @ k.transpose(2, 3)).masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return context.transpose(1, 2).flatten(2)


LAYOUTS: dict[type[Projected], str] = {
    Folded: "3 heads x 8",
    FoldedWithBias: "3 heads x 8, bias",
    OneHead: "1 head x 24",
    Repeated: "3q/1kv heads x 8",
    Broadcast: "3q/1kv heads x 8",
    ScaledEverywhere: "3 heads x 8, scale 0.25, bias",
    Windowed: "3 heads x 8, window [2, 0]",
    Unproven: "3 heads x 8, scale 1, dense mask",
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_is_one_site(layout: type[Projected], captured: Callable[..., Any]) -> None:
    result = captured(layout(), {"x": torch.randn(2, 6, 24)}, DYNAMIC)
    (site,) = find_sites(result.model)
    assert site.spec.summary() == LAYOUTS[layout]
    assert site.core({}).square
    assert unraised(result.model) == []
    kinds = [node.op_type for node in result.model.graph]
    assert "Softmax" not in kinds
    for batch, sequence in ((1, 1), (3, 5), (2, 40)):
        result.check(batch=batch, sequence=sequence)


def test_a_scale_leaves_no_product_behind(captured: Callable[..., Any]) -> None:
    """What the spec says is not computed as well."""
    model = captured(ScaledEverywhere(), {"x": torch.randn(2, 6, 24)}, DYNAMIC).model
    factors = [
        node.inputs[1].const_value.numpy().item()
        for node in model.graph
        if node.op_type == "Mul" and node.inputs[1].const_value is not None
    ]
    assert sorted(factors) == pytest.approx([0.1, 2.0])  # the bias's own, and the scale that came after it


class Unfolded(Projected):
    """Heads side by side with the positions of queries, since all have the same values: three axes, and not (B * H, S, T)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.heads(x, self.q), self.heads(x, self.k)
        weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
        context: Tensor = weights.flatten(1, 2) @ self.v(x)[..., :8]
        return context


def test_weights_of_another_layout_are_left_alone(captured: Callable[..., Any]) -> None:
    result = captured(Unfolded(), {"x": torch.randn(2, 6, 24)}, DYNAMIC)
    assert find_sites(result.model) == []
    assert len(unraised(result.model)) == 1
    result.check(batch=3, sequence=5)
