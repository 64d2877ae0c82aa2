"""torch's flex_attention: the standard modifiers become a spec, others a mask or a bias, and what no spec says is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as torchs
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, and_masks, create_block_mask, flex_attention, or_masks

from edgeattn import export
from edgeattn.errors import CaptureError
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites
from edgeattn.spec import (
    AttentionSpec,
    Causal,
    Dilated,
    Fixed,
    GlobalLocal,
    PrefixLM,
    SlidingWindow,
    SoftmaxAttention,
    Strided,
)

AXES = {0: "batch", 1: "sequence"}
DYNAMIC = {"x": AXES, "ids": AXES}
SLOPES = (0.5, 0.25)

Call = Callable[["Flex", Tensor, Tensor, Tensor, Tensor], Any]


class Flex(nn.Module):
    """Self attention through flex_attention, as `call` makes it from q, k, v (B, 2, S, 4) and ids (B, S)."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call, self.qkv = call, nn.Linear(8, 24)
        self.qkv.weight.data.mul_(2.0)
        self.slopes = nn.Buffer(torch.tensor(SLOPES))
        self.table = nn.Parameter(torch.randn(2, 9))

    def forward(self, x: Tensor, ids: Tensor) -> Any:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.call(self, q, k, v, ids)


def masked(mask_mod: Callable[..., Tensor], batched: bool = False) -> Call:
    """A call with one mask_mod; `mask_mod` gets the ids first where it is `batched`."""

    def call(_: Flex, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Any:
        length = q.shape[2]
        mod = (lambda b, h, i, j: mask_mod(ids, b, h, i, j)) if batched else mask_mod
        block = create_block_mask(mod, q.shape[0] if batched else None, None, length, length, device="cpu")
        return flex_attention(q, k, v, block_mask=block)

    return call


def scored(score_mod: Callable[..., Tensor]) -> Call:
    """A call with one score_mod, which gets the module first."""
    return lambda module, q, k, v, ids: flex_attention(q, k, v, score_mod=lambda *args: score_mod(module, *args))


def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """As torch's documentation writes it."""
    return i >= j


def near(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Beyond the lengths of any example."""
    return i - j <= 300


def first(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The first five positions."""
    return j < 5


def partial(module: Flex, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Any:
    """With its log-sum-exp, which is given to base e."""
    block = create_block_mask(causal, None, None, q.shape[2], q.shape[2], device="cpu")
    out, more = flex_attention(q, k, v, block_mask=block, scale=0.3, return_aux=AuxRequest(lse=True))
    return {"out": out, "lse": more.lse}


def padded_documents(module: Flex, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Any:
    """Two conditions that need the ids, of which a node can take one as it is."""

    def mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (ids[b, i] == ids[b, j]) & (ids[b, j] > 0)

    return flex_attention(q, k, v, block_mask=create_block_mask(mod, q.shape[0], None, q.shape[2], q.shape[2], device="cpu"))


def lengths(ids: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Causal, over as many keys as a row has."""
    return (i >= j) & (j < (ids > 0).sum(1)[b])


def spec(**options: Any) -> AttentionSpec:
    """Two heads of size 4."""
    return SoftmaxAttention(2, 2, 4, **options)


CASES: dict[str, tuple[Call, AttentionSpec]] = {
    "plain": (lambda m, q, k, v, ids: flex_attention(q, k, v), spec()),
    "grouped": (
        lambda m, q, k, v, ids: flex_attention(q, k[:, :1], v[:, :1], enable_gqa=True, scale=0.7),
        SoftmaxAttention(2, 1, 4, scale=0.7),
    ),
    "causal": (masked(causal), spec(pattern=Causal())),
    "window": (masked(and_masks(causal, near)), spec(pattern=SlidingWindow(300, 0))),
    "both sides": (masked(lambda b, h, i, j: (i - j).abs() <= 3), spec(pattern=SlidingWindow(3, 3))),
    "prefix": (masked(or_masks(causal, first)), spec(pattern=PrefixLM())),
    "prefix of each row": (
        masked(lambda ids, b, h, i, j: (i >= j) | (j < ids[:, 0][b]), batched=True),
        spec(pattern=PrefixLM()),
    ),
    "documents": (masked(lambda ids, b, h, i, j: ids[b, i] == ids[b, j], batched=True), spec(mask="document")),
    "causal documents": (
        masked(lambda ids, b, h, i, j: (i >= j) & (ids[b, i] == ids[b, j]), batched=True),
        spec(pattern=Causal(), mask="document"),
    ),
    "documents with padding": (padded_documents, spec(mask="dense")),
    "padding": (masked(lambda ids, b, h, i, j: (ids > 0)[b, j], batched=True), spec(mask="key_padding")),
    "lengths": (masked(lengths, batched=True), spec(pattern=Causal(), mask="key_padding")),
    "dilated": (masked(lambda b, h, i, j: ((i - j).abs() <= 6) & ((i - j) % 2 == 0)), spec(pattern=Dilated(3, 3, 2))),
    "global": (
        masked(lambda b, h, i, j: ((i - j).abs() <= 6) | (j < 3) | (i < 3)),
        spec(pattern=GlobalLocal(6, 6, 3)),
    ),
    "sinks": (
        masked(lambda b, h, i, j: (i >= j) & ((i - j <= 6) | (j < 3))),
        spec(pattern=GlobalLocal(6, 0, 3, causal=True)),
    ),
    "strided": (masked(lambda b, h, i, j: (i >= j) & ((i - j < 4) | ((i - j) % 4 == 0))), spec(pattern=Strided(4))),
    "fixed": (
        masked(lambda b, h, i, j: (i >= j) & ((i // 4 == j // 4) | (j % 4 >= 3))),
        spec(pattern=Fixed(4)),
    ),
    "two axes of an image": (
        masked(lambda b, h, i, j: ((i // 4 - j // 4).abs() <= 1) & ((i % 4 - j % 4).abs() <= 1)),
        spec(mask="dense"),
    ),
    "one head sees less": (masked(lambda b, h, i, j: (i - j).abs() <= 2 + 5 * h), spec(mask="dense")),
    "soft cap": (scored(lambda m, s, b, h, i, j: 5 * torch.tanh(s / 5)), spec(softcap=5.0)),
    "soft cap of more": (scored(lambda m, s, b, h, i, j: 5 * torch.tanh(s / 2.5)), spec(softcap=5.0, scale=1.0)),
    "temperature": (scored(lambda m, s, b, h, i, j: s / 3), spec(scale=0.5 / 3)),
    "ALiBi": (scored(lambda m, s, b, h, i, j: s + m.slopes[h] * (j - i)), spec(bias=True)),
    "causal ALiBi": (
        scored(lambda m, s, b, h, i, j: torch.where(i >= j, s + m.slopes[h] * (j - i), -torch.inf)),
        spec(pattern=Causal(), bias=True),
    ),
    "causal by scores": (
        scored(lambda m, s, b, h, i, j: torch.where(i >= j, s, -torch.inf)),
        spec(pattern=Causal()),
    ),
    "relative bias": (
        scored(lambda m, s, b, h, i, j: s + m.table[h, (i - j).clamp(-4, 4) + 4]),
        spec(bias=True),
    ),
    "relative bias, row by row": (
        scored(lambda m, s, b, h, i, j: 9 * torch.tanh(s / 9) + m.table[h][(i - j).clamp(-4, 4) + 4]),
        spec(bias=True, softcap=9.0),
    ),
    "log-sum-exp": (partial, spec(pattern=Causal(), scale=0.3, lse=True)),
}
QUICK = {"window", "causal documents", "lengths", "two axes of an image", "causal ALiBi", "relative bias, row by row"}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """plain(): from now on flex_attention computes its formula without compiling anything for it."""
    return lambda: monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def inputs() -> dict[str, Tensor]:
    """Batch 2, 10 positions; ids that are document numbers, lengths of a prefix, and padding where 0."""
    x = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    return {"x": x, "ids": torch.tensor([[3, 3, 3, 1, 1, 1, 2, 2, 0, 0], [5, 5, 1, 1, 1, 1, 1, 0, 0, 0]])}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES])
def test_modifiers_become_a_spec(name: str, captured: Callable[..., Any], plain: Callable[[], None]) -> None:
    call, expected = CASES[name]
    with torch.no_grad():
        result = captured(Flex(call), inputs(), DYNAMIC)
    assert [site.spec for site in find_sites(result.model)] == [expected]
    assert unraised(result.model) == []
    plain()
    for batch, sequence in ((1, 1), (3, 7), (2, 333)):
        result.check(batch=batch, sequence=sequence)


REFUSED: dict[str, tuple[Call, str]] = {
    "a bias inside the cap": (
        scored(lambda m, s, b, h, i, j: 5 * torch.tanh((s + m.slopes[h] * (j - i)) / 5)),
        "changes a score differently from position to position",
    ),
    "a scale for each head": (
        scored(lambda m, s, b, h, i, j: s * m.slopes[h]),
        "changes a score differently from position to position",
    ),
    "a threshold": (scored(lambda m, s, b, h, i, j: torch.where(s > 1, s, -torch.inf)), "by the value of their score"),
    "a sign": (scored(lambda m, s, b, h, i, j: -s), "other than by a positive factor"),
    "a square": (scored(lambda m, s, b, h, i, j: s * s), "other than by a positive factor"),
    "blocks alone": (
        lambda m, q, k, v, ids: flex_attention(
            q,
            k,
            v,
            block_mask=BlockMask.from_kv_blocks(
                torch.ones(1, 1, 1, dtype=torch.int32),
                torch.zeros(1, 1, 1, 1, dtype=torch.int32),
                seq_lengths=(q.shape[2], q.shape[2]),
            ),
        ),
        "a block mask whose mask_mod hides nothing",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in {"a threshold", "blocks alone"})) for name in REFUSED]
)
def test_what_no_spec_says_is_refused(name: str, captured: Callable[..., Any]) -> None:
    call, message = REFUSED[name]
    with torch.no_grad(), pytest.raises(CaptureError, match=message):
        captured(Flex(call), inputs(), {} if name == "blocks alone" else DYNAMIC)


def test_a_block_mask_made_beforehand(captured: Callable[..., Any], plain: Callable[[], None]) -> None:
    """For one length only, with its blocks."""
    block = create_block_mask(and_masks(causal, near), None, None, 10, 10, device="cpu")
    with torch.no_grad():
        result = captured(
            Flex(lambda m, q, k, v, ids: flex_attention(q, k, v, block_mask=block)),
            inputs(),
            {"x": {0: "batch"}, "ids": {0: "batch"}},
        )
    # at ten positions a window of 300 hides nothing that causality does not
    assert [site.spec for site in find_sites(result.model)] == [spec(pattern=Causal())]
    plain()
    result.check(batch=3)


@pytest.mark.slow
def test_compiled_and_bundled(tmp_path: Path) -> None:
    """As it is used: torch.compile(flex_attention), exported for both runtimes."""
    compiled = torch.compile(flex_attention)
    module = Flex(lambda m, q, k, v, ids: compiled(q, k, v, score_mod=lambda s, b, h, i, j: s + m.slopes[h] * (j - i)))
    report = export(
        module.eval(), inputs(), output=tmp_path / "out", runtimes=["onnxruntime:cpu", "openvino:cpu"], dynamic=DYNAMIC
    )
    assert report.passed
    assert [site.spec for site in report.sites] == [spec(bias=True)]
