"""Static layouts of blocks and the fixed pattern: the formula's numbers, and hidden blocks cost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.gather_blocks import buckets
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.patterns import longest
from edgeattn.runtimes import registry
from edgeattn.spec import AttentionSpec, BlockSparse, Fixed, SoftmaxAttention
from tests.exporters.shapes import largest_tensor
from tests.exporters.tiled import RUNTIMES, check, plain, slow, specs

Layout = tuple[tuple[str, ...], ...]


def _bigbird(blocks: int, heads: int = 1) -> Layout:
    """Window of three blocks, the first block global, two random ones."""
    rng = np.random.default_rng(0)
    tables = np.zeros((heads, blocks, blocks), dtype=bool)
    rows = np.arange(blocks)
    tables |= abs(rows[:, None] - rows) <= 1
    tables[:, 0] = tables[:, :, 0] = True
    for head in range(heads):
        tables[head, rows[:, None], rng.integers(0, blocks, (blocks, 2))] = True
    return tuple(tuple("".join("01"[entry] for entry in row) for row in table.astype(int)) for table in tables)


@st.composite
def _layouts(draw: st.DrawFn) -> BlockSparse:
    """Any bits: rows that see nothing among them."""
    size, heads = draw(st.integers(1, 6)), draw(st.sampled_from([1, 4]))
    row = st.text("01", min_size=size, max_size=size)
    table = st.lists(row, min_size=size, max_size=size).map(tuple)
    layout = draw(st.lists(table, min_size=heads, max_size=heads).map(tuple))
    return BlockSparse(draw(st.sampled_from([1, 7, 16, 40])), layout, draw(st.booleans()))


@st.composite
def _fixed(draw: st.DrawFn) -> Fixed:
    block = draw(st.integers(1, 90))
    return Fixed(block, draw(st.integers(1, block)))


@st.composite
def _cases(draw: st.DrawFn) -> tuple[str, AttentionSpec, list[int]]:
    """A form, what it is to write, and lengths that it takes."""
    name, patterns = draw(st.sampled_from([("gather-blocks", _layouts()), ("fixed-blocks", _fixed())]))
    spec = draw(specs(patterns))
    lengths = st.lists(st.integers(1, longest(spec.pattern) or 300), min_size=2, max_size=2)
    return name, spec, draw(lengths)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=10)
@given(case=_cases(), batch=st.integers(1, 3))
def test_equals_the_formula_at_any_length(runtime: str, case: tuple[str, AttentionSpec, list[int]], batch: int) -> None:
    name, spec, lengths = case
    check(get(name), spec, runtime, lengths, batch)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=150)
@given(case=_cases(), batch=st.integers(1, 3))
def test_equals_the_formula_at_any_length_in_many_more_cases(
    runtime: str, case: tuple[str, AttentionSpec, list[int]], batch: int
) -> None:
    name, spec, lengths = case
    check(get(name), spec, runtime, lengths, batch)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (plain(BlockSparse(32, _bigbird(24))), "gather-blocks"),
        slow(plain(BlockSparse(32, _bigbird(24, heads=4)), mask="key_padding"), "gather-blocks"),
        slow(plain(BlockSparse(32, _bigbird(24), causal=True)), "gather-blocks"),
        (plain(Fixed(64, 2)), "fixed-blocks"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.summary().replace(" ", "-"),
)
def test_is_chosen_for_long_layouts_and_proven(runtime: str, spec: AttentionSpec, name: str, tmp_path: Path) -> None:
    assert choose(Core(spec, square=True), registry.get(runtime), "cpu", Prover(tmp_path)).lowering.name == name


def test_a_layout_that_shows_nearly_all_stays_dense(tmp_path: Path) -> None:
    spec = plain(BlockSparse(64, (("1" * 9,) * 9,)))
    chosen = choose(Core(spec, square=True), registry.get("onnxruntime"), "cpu", Prover(tmp_path))
    assert chosen.lowering.name != "gather-blocks"


@given(_layouts())
def test_every_visible_block_is_in_one_bucket_once(pattern: BlockSparse) -> None:
    size = len(pattern.layout[0])
    split = buckets(pattern)
    assert sorted(row for bucket in split for row in bucket.rows) == list(range(size))
    for head, table in enumerate(pattern.layout):
        for bucket in split:
            for row, seen in zip(bucket.rows, bucket.seen[head], strict=True):
                reach = row + 1 if pattern.causal else size
                assert [c for c in seen if c < size] == [c for c in range(reach) if table[row][c] == "1"]


def test_rows_that_see_everything_do_not_widen_the_others() -> None:
    small, large = buckets(BlockSparse(64, _bigbird(64)))
    assert large.rows.tolist() == [0]
    assert large.seen.shape[2] == 64
    assert small.seen.shape[2] <= 6


@pytest.mark.parametrize("heads", [1, 4])
def test_a_layout_costs_what_it_shows(heads: int) -> None:
    spec = plain(BlockSparse(64, _bigbird(64, heads)))
    lowering = get("gather-blocks")
    largest = largest_tensor(probe_model(lowering, Core(spec, square=True)), 1, 4096)
    assert largest <= lowering.scratch(spec, 1, 4096, 4096) < spec.q_heads * 4096**2 / 5


def test_the_fixed_pattern_grows_slower_than_the_square() -> None:
    spec = plain(Fixed(128, 2))
    lowering = get("fixed-blocks")
    model = probe_model(lowering, Core(spec, square=True))
    largest = {length: largest_tensor(model, 1, length) for length in (4096, 8192)}
    assert all(size <= lowering.scratch(spec, 1, length, length) for length, size in largest.items())
    assert largest[8192] < spec.q_heads * 8192**2 / 20


def test_a_sequence_beyond_the_layout_is_refused() -> None:
    """Silence would be a result of the wrong length."""
    with pytest.raises((EdgeAttnError, AssertionError, IndexError)):
        check(get("gather-blocks"), plain(BlockSparse(8, _bigbird(4))), "onnxruntime", [33], batch=1)


@pytest.mark.parametrize(("name", "reason"), [("gather-blocks", "layouts of blocks"), ("fixed-blocks", "fixed sparse pattern")])
def test_refusals(name: str, reason: str) -> None:
    assert reason in (get(name).accepts(Core(SoftmaxAttention(2, 2, 8), square=True)) or "")
    pattern = Fixed(8) if name == "fixed-blocks" else BlockSparse(8, (("1",),))
    assert "length are equal" in (get(name).accepts(Core(plain(pattern))) or "")
