"""The form that updates its cache: what it accepts, that a probe proves it, and that nothing else may read the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from edgeattn.exporters.caches import cache_of
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.cached import CachedGroupQueryAttention
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.patterns import Pattern
from edgeattn.probe import sizes_for
from edgeattn.runtimes import registry
from edgeattn.spec import Causal, Full, SlidingWindow, SoftmaxAttention

LAST: dict[str, Any] = {"alignment": "lower_right"}
FORM = get("contrib-gqa-cache")


def _spec(pattern: Pattern | None = None, heads: tuple[int, int] = (4, 2), size: int = 16, **more: Any) -> SoftmaxAttention:
    return SoftmaxAttention(*heads, size, pattern=pattern or Causal(**LAST), **{"mask": "key_padding", **more})


@pytest.mark.parametrize(
    "spec",
    [
        _spec(),
        _spec(heads=(9, 3), size=64),
        _spec(SlidingWindow(5, 0, **LAST)),
        _spec(softcap=20.0, bias=True),
        _spec(SlidingWindow(5, 0, **LAST), sink=True),
        _spec(heads=(4, 1), size=8, scale=1.0),
    ],
    ids=lambda spec: spec.summary(),
)
def test_it_is_proven_on_onnxruntime(spec: SoftmaxAttention, tmp_path: Path) -> None:
    assert Prover(tmp_path).verdict(FORM, Core(spec, cached=True), registry.get("onnxruntime"), "cpu") == ("pass", "")


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (Core(_spec()), "no cache that this attention alone reads"),
        (Core(_spec(Causal()), cached=True), "always causal"),
        (Core(_spec(Full()), cached=True), "always causal"),
        (Core(_spec(SlidingWindow(4, 4, **LAST)), cached=True), "always causal"),
        (Core(_spec(mask="none"), cached=True), "how many positions of a buffer are used"),
        (Core(_spec(value_head_dim=8), cached=True), "needs one head size, got 16 for keys and 8 for values"),
        (Core(_spec(size=12), cached=True), "multiple of 8, got 12"),
        (Core(_spec(score="additive"), cached=True), "no additive scores"),
    ],
)
def test_what_it_cannot_say_is_refused(core: Core, reason: str) -> None:
    assert reason in (FORM.accepts(core) or "")


class _Unmasked(CachedGroupQueryAttention):
    """Wrong: the window is lost."""

    name = "unmasked"

    def outputs(self, b: Builder, core: Core, x: Operands) -> tuple[ir.Value, ...]:
        wide = Core(_spec(), cached=True)
        return super().outputs(b, wide, x)


def test_a_lost_window_is_noticed(tmp_path: Path) -> None:
    core = Core(_spec(SlidingWindow(5, 0, **LAST)), cached=True)
    status, reason = Prover(tmp_path).verdict(_Unmasked(), core, registry.get("onnxruntime"), "cpu")
    assert status == "fails"
    assert "wrong values" in reason


def test_sizes_behind_a_cache() -> None:
    sizes = sizes_for(_spec(), square=False, cached=True)
    assert all(keys >= queries for _, queries, keys in sizes)
    assert all(batch == 1 for batch, queries, keys in sizes if queries not in (1, keys))
    assert {(2, 1, 65), (2, 65, 65), (1, 33, 1025)} <= set(sizes)


def _graph(**changes: bool) -> tuple[ir.Value, ir.Value]:
    """Keys and values of an attention behind a cache; `changes` make it something else."""
    b = Builder()
    halves = []
    for name in ("k", "v"):
        past, new = (ir.val(f"{part}_{name}", ir.DataType.FLOAT, ["b", 2, part, 8]) for part in ("past", "new"))
        inputs = [new] if changes.get("past_is_computed") else [past, new]
        before = b.op("Neg", new) if changes.get("past_is_computed") else past
        present = b.op("Concat", before, new, axis=1 if changes.get("other_axis") else -2)
        halves.append((inputs, before, present))
    b.op("Attention", halves[0][2], halves[1][2])
    if changes.get("past_is_read"):
        b.op("Neg", halves[1][1])
    if changes.get("present_is_read"):
        b.op("Neg", halves[0][2])
    outputs = [] if changes.get("present_is_lost") else [present for _, _, present in halves]
    ir.Graph([value for inputs, _, _ in halves for value in inputs], outputs, nodes=b.nodes, name="g")
    return halves[0][2], halves[1][2]


def test_a_cache_is_recognised() -> None:
    k, v = _graph()
    found = cache_of(k, v)
    assert found is not None
    assert [update.past.name for update in (found.keys, found.values)] == ["past_k", "past_v"]
    assert [update.present for update in (found.keys, found.values)] == [k, v]


@pytest.mark.parametrize("change", ["past_is_computed", "other_axis", "past_is_read", "present_is_read", "present_is_lost"])
def test_a_cache_that_something_else_reads_is_none(change: str) -> None:
    assert cache_of(*_graph(**{change: True})) is None
