"""Capture: every attention becomes one node with the right spec, or is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from edgeattn.errors import CaptureError
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import DOMAIN, find_sites
from edgeattn.models import create
from edgeattn.spec import AttentionSpec, Causal, SlidingWindow, SoftmaxAttention

Q, K = {0: "batch", 2: "queries"}, {0: "batch", 2: "keys"}
SEQUENCE = {"x": {0: "batch", 1: "sequence"}}


class Sdpa(nn.Module):
    """F.scaled_dot_product_attention as a user calls it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, m: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=m, **self.options)


@dataclass(frozen=True)
class Case:
    """A call of scaled_dot_product_attention, and the spec it must become."""

    spec: AttentionSpec
    options: dict[str, Any] = field(default_factory=dict)
    heads: tuple[int, int] = (2, 2)
    value_size: int = 8
    mask: tuple[Tensor, dict[int, str]] | None = None
    axes: int = 4

    def inputs(self) -> dict[str, Tensor]:
        """Batch 2, 5 queries, 7 keys; for fewer axes heads, then the batch, are dropped."""
        shapes = {"q": (2, self.heads[0], 5, 8), "k": (2, self.heads[1], 7, 8), "v": (2, self.heads[1], 7, self.value_size)}
        drawn = {name: 2 * torch.randn(shape) for name, shape in shapes.items()}
        if self.axes == 3:
            drawn = {name: x[:, 0] for name, x in drawn.items()}
        if self.axes == 2:
            drawn = {name: x[0, 0] for name, x in drawn.items()}
        return drawn if self.mask is None else {**drawn, "m": self.mask[0]}

    def dynamic(self) -> dict[str, dict[int, str]]:
        """Batch and both lengths."""
        q, k = {4: (Q, K), 3: ({0: "batch", 1: "queries"}, {0: "batch", 1: "keys"}), 2: ({0: "queries"}, {0: "keys"})}[
            self.axes
        ]
        axes = {"q": q, "k": k, "v": k}
        return axes if self.mask is None else {**axes, "m": self.mask[1]}


def _hidden(*shape: int) -> Tensor:
    """Booleans, about half of them True."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5


def _additive() -> Tensor:
    """A float mask: a row of -inf alone, one partly -inf, finite numbers."""
    bias = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    bias[0] = -torch.inf
    bias[1, 2:] = -torch.inf
    return bias


CASES = {
    "plain": Case(SoftmaxAttention(2, 2, 8)),
    "mask of rank 2": Case(SoftmaxAttention(2, 2, 8, mask="dense"), mask=(_hidden(5, 7), {0: "queries", 1: "keys"})),
    "mask of rank 3": Case(SoftmaxAttention(2, 2, 8, mask="dense"), mask=(_hidden(2, 5, 7), {1: "queries", 2: "keys"})),
    "mask of rank 4": Case(
        SoftmaxAttention(2, 2, 8, mask="dense"), mask=(_hidden(2, 2, 5, 7), {0: "batch", 2: "queries", 3: "keys"})
    ),
    "mask of keys": Case(SoftmaxAttention(2, 2, 8, mask="key_padding"), mask=(_hidden(2, 1, 1, 7), {0: "batch", 3: "keys"})),
    "float mask": Case(SoftmaxAttention(2, 2, 8, bias=True), mask=(_additive(), {0: "queries", 1: "keys"})),
    "causal": Case(SoftmaxAttention(2, 2, 8, pattern=Causal()), {"is_causal": True}),
    "scale": Case(SoftmaxAttention(2, 2, 8, scale=0.3), {"scale": 0.3}),
    "grouped": Case(SoftmaxAttention(6, 2, 8, value_head_dim=5), {"enable_gqa": True}, heads=(6, 2), value_size=5),
    "causal, grouped, scaled": Case(
        SoftmaxAttention(6, 2, 8, scale=0.5, pattern=Causal()),
        {"enable_gqa": True, "is_causal": True, "scale": 0.5},
        heads=(6, 2),
    ),
    "three axes": Case(SoftmaxAttention(1, 1, 8), axes=3),
    "three axes, a mask": Case(
        SoftmaxAttention(1, 1, 8, mask="dense"), axes=3, mask=(_hidden(2, 5, 7), {0: "batch", 1: "queries", 2: "keys"})
    ),
    "two axes": Case(SoftmaxAttention(1, 1, 8, value_head_dim=4), axes=2, value_size=4),
}


QUICK = {"mask of rank 4", "float mask", "causal, grouped, scaled", "three axes, a mask"}


def _sample(names: Iterable[str], slow: set[str]) -> list[Any]:
    """Parameters, those that others nearly cover marked as slow: each capture takes a second."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


@pytest.mark.parametrize("name", _sample(CASES, set(CASES) - QUICK))
def test_sdpa_is_one_node_with_its_spec(name: str, captured: Callable[..., Any]) -> None:
    case = CASES[name]
    result = captured(Sdpa(**case.options), case.inputs(), case.dynamic())
    assert [site.spec for site in find_sites(result.model)] == [case.spec]
    assert unraised(result.model) == []
    for batch, queries, keys in ((1, 1, 1), (1, 1, 6), (3, 9, 4), (2, 4, 1)):
        sizes = {"batch": batch, "queries": queries, "keys": keys}
        result.check(**{name: sizes[name] for name in result.source.dimensions})


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[int, str]], str]] = {
    "scale 0": ({"scale": 0.0}, CASES["plain"].inputs(), {}, "scale must be > 0"),
    "negative scale": ({"scale": -1.0}, CASES["plain"].inputs(), {}, "scale must be > 0"),
    "dropout": ({"dropout_p": 0.1}, CASES["plain"].inputs(), {}, r"dropout .* call \.eval\(\)"),
    "five axes": ({}, {n: torch.randn(2, 2, 2, 5, 8) for n in "qkv"}, {}, r"5 axes; expected \(B, H, S, D\)"),
    "dynamic heads": ({}, CASES["plain"].inputs(), {n: {1: "heads"} for n in "qkv"}, "number of heads and the head size must"),
}


@pytest.mark.parametrize("name", _sample(REFUSED, {"negative scale", "dropout", "dynamic heads"}))
def test_calls_that_no_spec_describes_are_refused_not_misread(name: str, captured: Callable[..., Any]) -> None:
    options, inputs, dynamic, message = REFUSED[name]
    with pytest.raises(CaptureError, match=message):
        captured(Sdpa(**options), inputs, dynamic)


class Torchs(nn.Module):
    """nn.MultiheadAttention with dropout, as it is handed in: in training mode."""

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True, dropout=0.5)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Any:
        out = self.attend(x, x, x, key_padding_mask=padding, need_weights=self.weights)
        return out if self.weights else out[0]


def test_multihead_attention_in_training_mode(captured: Callable[..., Any]) -> None:
    result = captured(Torchs().train(), {"x": torch.randn(2, 6, 12)}, SEQUENCE)
    assert [(site.spec, site.module) for site in find_sites(result.model)] == [(SoftmaxAttention(3, 3, 4), "attend")]
    for batch, sequence in ((1, 1), (3, 7)):
        result.check(batch=batch, sequence=sequence)


def test_multihead_attention_with_padding(captured: Callable[..., Any]) -> None:
    padding = torch.tensor([[False] * 4 + [True] * 2, [False] * 6])
    dynamic = {**SEQUENCE, "padding": {0: "batch", 1: "sequence"}}
    result = captured(Torchs(), {"x": torch.randn(2, 6, 12), "padding": padding}, dynamic)
    assert [site.spec for site in find_sites(result.model)] == [SoftmaxAttention(3, 3, 4, mask="key_padding")]
    result.check(batch=3, sequence=7)


def test_attention_weights_as_an_output_are_named_as_not_raised(captured: Callable[..., Any]) -> None:
    result = captured(Torchs(weights=True), {"x": torch.randn(2, 6, 12)}, SEQUENCE)
    assert (len(find_sites(result.model)), unraised(result.model)) == (0, ["attend"])
    result.check(batch=1, sequence=7)


@pytest.mark.slow
def test_transformer_encoder(captured: Callable[..., Any]) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    result = captured(nn.TransformerEncoder(layer, 2), {"src": torch.randn(2, 6, 8)}, {"src": SEQUENCE["x"]})
    assert [site.module for site in find_sites(result.model)] == ["layers.0.self_attn", "layers.1.self_attn"]
    for batch, sequence in ((1, 1), (3, 9)):
        result.check(batch=batch, sequence=sequence)


VARIANTS: dict[str, tuple[dict[str, Any], AttentionSpec]] = {
    "self": ({"embed_dim": 12}, SoftmaxAttention(1, 1, 12)),
    "multi_head": ({"embed_dim": 12, "num_heads": 3, "softcap": 2.0}, SoftmaxAttention(3, 3, 4, softcap=2.0)),
    "multi_query": ({"embed_dim": 12, "num_heads": 4}, SoftmaxAttention(4, 1, 3)),
    "grouped_query": ({"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2}, SoftmaxAttention(4, 2, 3)),
    "causal": (
        {"embed_dim": 12, "num_heads": 4, "window": 3},
        SoftmaxAttention(4, 4, 3, pattern=SlidingWindow(2, 0)),
    ),
}


@pytest.mark.parametrize("name", _sample(VARIANTS, {"self", "multi_query"}))
def test_our_own_variants(name: str, captured: Callable[..., Any]) -> None:
    options, spec = VARIANTS[name]
    result = captured(
        nn.Sequential(OrderedDict(core=create(name, **options))), {"input": torch.randn(2, 6, 12)}, {"input": SEQUENCE["x"]}
    )
    sites = find_sites(result.model)
    assert [(site.spec, site.module) for site in sites] == [(spec, "core")]
    assert sites[0].core({}).square
    for batch, sequence in ((1, 1), (3, 7)):
        result.check(batch=batch, sequence=sequence)


def test_canonical_files_are_accepted_by_onnx_itself(captured: Callable[..., Any]) -> None:
    import onnx

    case = CASES["causal, grouped, scaled"]
    model = captured(Sdpa(**case.options), case.inputs(), case.dynamic()).model
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 18, DOMAIN: 1}
    assert [function.name for function in proto.functions] == [find_sites(model)[0].node.op_type]


def test_the_module_is_called_as_the_user_calls_it(captured: Callable[..., Any]) -> None:
    """Inputs go in by name, in whatever order they are declared."""
    case = CASES["plain"]
    inputs = dict(reversed(case.inputs().items()))
    result = captured(Sdpa(), inputs, case.dynamic())
    assert [value.name for value in result.model.graph.inputs] == ["v", "k", "q"]
    result.check(batch=1, queries=3, keys=5)
