"""Windows in blocks, plain, dilated and with global positions: the formula's numbers, and never S x S."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.blocked import BLOCK, Reach
from edgeattn.exporters.lowerings.defaults import SHORT
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.lowerings.tiles import PIECES
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.runtimes import registry
from edgeattn.spec import AttentionSpec, Dilated, GlobalLocal, Pattern, SlidingWindow, SoftmaxAttention
from tests.exporters.shapes import largest_tensor
from tests.exporters.tiled import RUNTIMES, check, plain, slow, specs

lengths = st.lists(st.integers(1, 4 * BLOCK + 1), min_size=2, max_size=2)
windows = st.builds(SlidingWindow, left=st.integers(0, 6 * BLOCK), right=st.integers(0, 3 * BLOCK))
dilated = st.builds(Dilated, left=st.integers(0, BLOCK), right=st.integers(0, 9), dilation=st.integers(2, 5))
both_ways = st.builds(GlobalLocal, left=st.integers(0, 99), right=st.integers(0, 9), tokens=st.integers(1, BLOCK + 3))
streaming = st.builds(
    GlobalLocal, left=st.integers(0, 99), right=st.just(0), tokens=st.integers(1, BLOCK + 3), causal=st.just(True)
)
blocked_specs = specs(windows | dilated)
global_specs = specs(streaming) | specs(both_ways, masks=("none", "key_padding"))


bounds = st.sampled_from([None, *(most or 1 << 15 for most, _ in PIECES)])
"""One for every number of pieces."""
cases = st.tuples(st.just("blocked"), blocked_specs) | st.tuples(st.just("blocked-global"), global_specs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=10)
@given(case=cases, lengths=lengths, batch=st.integers(1, 3), bound=bounds)
def test_equals_the_formula_at_any_length(
    runtime: str, case: tuple[str, AttentionSpec], lengths: list[int], batch: int, bound: int | None
) -> None:
    name, spec = case
    check(get(name), spec, runtime, lengths, batch, bound)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=150)
@given(case=cases, lengths=lengths, batch=st.integers(1, 3), bound=bounds)
def test_equals_the_formula_at_any_length_in_many_more_cases(
    runtime: str, case: tuple[str, AttentionSpec], lengths: list[int], batch: int, bound: int | None
) -> None:
    name, spec = case
    check(get(name), spec, runtime, lengths, batch, bound)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("length", [1, 7, 3 * BLOCK])
def test_fewer_positions_than_are_global(runtime: str, length: int) -> None:
    """One position first: OpenVINO's unmasked kernel would keep something of it."""
    check(get("blocked-global"), plain(GlobalLocal(5, 5, 70)), runtime, [1, length], batch=2)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (plain(SlidingWindow(63, 0)), "blocked"),
        slow(plain(SlidingWindow(63, 0), mask="key_padding"), "blocked"),
        slow(plain(SlidingWindow(15, 0), sink=True), "blocked"),
        (plain(Dilated(20, 0, 3)), "blocked"),
        slow(plain(GlobalLocal(31, 0, 4, causal=True)), "blocked-global"),
        (plain(GlobalLocal(31, 31, 70)), "blocked-global"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.summary().replace(" ", "-"),
)
def test_is_chosen_for_long_windows_and_proven(runtime: str, spec: AttentionSpec, name: str, tmp_path: Path) -> None:
    """Proven means: hidden keys that shout too."""
    prover = Prover(tmp_path)
    engine = registry.get(runtime)
    assert choose(Core(spec, square=True), engine, "cpu", prover).lowering.name == name
    assert choose(Core(spec, square=True, max_keys=SHORT), engine, "cpu", prover).lowering.name != name


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("blocked", SoftmaxAttention(8, 8, 64, pattern=SlidingWindow(255, 0))),
        ("blocked", plain(SlidingWindow(100, 55), mask="key_padding", sink=True)),
        ("blocked", plain(Dilated(60, 3, 4), mask="document")),
        ("blocked-global", plain(GlobalLocal(63, 63, 20))),
        ("blocked-global", plain(GlobalLocal(255, 0, 4, causal=True))),
    ],
)
def test_what_is_held_is_linear_in_the_length(name: str, spec: AttentionSpec) -> None:
    """By shape inference; what the form says that it holds is never less than its largest tensor."""
    lowering = get(name)
    model = probe_model(lowering, Core(spec, square=True))
    largest = {length: largest_tensor(model, 1, length) for length in (2048, 4096, 8192)}
    assert largest[8192] == 2 * largest[4096] == 4 * largest[2048]
    assert all(size <= lowering.scratch(spec, 1, length, length) for length, size in largest.items())
    assert largest[8192] < spec.q_heads * 8192**2 / 20


def test_a_proof_is_of_the_form_for_this_bound_alone(tmp_path: Path) -> None:
    """Fewer pieces for short sequences are another graph, also where the probe of literal sizes is smaller than what it stands for."""
    prover, form = Prover(tmp_path), get("blocked")
    core = Core(plain(SlidingWindow(63, 0)), square=True)
    written = [prover.model(form, replace(core, max_keys=bound)) for bound in (None, 1024, 4096, 8192)]
    fixed = [prover.model(form, replace(core, max_keys=bound, size=(1, bound, bound))) for bound in (4096, 8192)]
    products = [[node.op_type for node in ir.load(path).graph].count("MatMul") for path in written + fixed]
    assert products == [2 * 2 * count for count in (2, 1, 2, 6, 2, 6)]


@pytest.mark.parametrize("left", [0, 1, BLOCK, 8 * BLOCK, 8 * BLOCK + 1, 5000])
def test_a_block_meets_exactly_its_window(left: int) -> None:
    """The first query's first key and the last query's last are met, and little beyond."""
    reach = Reach.of(left, 3)
    assert reach.columns[0] <= -left
    assert reach.columns[-1] == reach.size - 1 + 3
    assert reach.width < reach.size + left + 3 + 16


@pytest.mark.parametrize(
    ("name", "pattern", "fields", "reason"),
    [
        ("blocked", None, {}, "it is for windows"),
        ("blocked", SlidingWindow(None, 3), {}, "no limit on one side"),
        ("blocked", SlidingWindow(3, 0), {"bias": True}, "no bias"),
        ("blocked", SlidingWindow(3, 0), {"mask": "dense"}, "no dense mask"),
        ("blocked", SlidingWindow(3, 0), {"sink": True, "score": "additive"}, "no additive scores"),
        ("blocked-global", SlidingWindow(3, 0), {}, "global positions"),
        ("blocked-global", GlobalLocal(3, 3, 1), {"mask": "document"}, "no documents"),
    ],
)
def test_refusals(name: str, pattern: Pattern | None, fields: dict[str, object], reason: str) -> None:
    spec = plain(pattern, **fields) if pattern else SoftmaxAttention(2, 2, 8)
    assert reason in (get(name).accepts(Core(spec, square=True)) or "")


@pytest.mark.parametrize(
    ("name", "pattern"), [("blocked", SlidingWindow(3, 0)), ("blocked-global", GlobalLocal(3, 0, 1, causal=True))]
)
def test_lengths_that_may_differ_are_refused(name: str, pattern: Pattern) -> None:
    assert "length are equal" in (get(name).accepts(Core(plain(pattern))) or "")
