"""Patterns: drawn by hand, against their papers' definitions, and the same in numpy, torch and a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.formula import GraphPlaces
from edgeattn.models.attention import naive as torch_naive
from edgeattn.naive import visible
from edgeattn.patterns import (
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    Full,
    GlobalLocal,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    always_sees,
    longest,
)

HEADS = 2
LAYOUT = (("110", "011", "101"),)
TWO_LAYOUTS = (("10", "11"), ("01", "10"))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[str, ...], ...]:
    size = draw(st.integers(1, 3))
    row = st.text("01", min_size=size, max_size=size)
    table = st.tuples(*[row] * size)
    return draw(st.tuples(table) | st.tuples(*[table] * HEADS))


few, some = st.integers(0, 3), st.integers(1, 4)
alignments = st.sampled_from(["upper_left", "lower_right"])
patterns: st.SearchStrategy[Pattern] = st.one_of(
    st.just(Full()),
    st.just(PrefixLM()),
    st.builds(Causal, alignments),
    st.builds(SlidingWindow, few, few | st.none(), alignments),
    st.builds(SlidingWindow, st.none(), st.integers(1, 3), alignments),
    st.builds(Dilated, few, few, st.integers(2, 3)),
    st.builds(GlobalLocal, few, few, some),
    st.builds(GlobalLocal, few, st.just(0), some, st.just(True)),
    st.builds(Strided, some),
    st.integers(1, 4).flatmap(lambda block: st.builds(Fixed, st.just(block), st.integers(1, block))),
    st.builds(BlockSparse, some, layouts(), st.booleans()),
)
lengths = st.integers(1, 14)
PREFIXES = np.array([0, 3, 40, -1])
"""For the rows of a batch: none, some, more than there are keys, and fewer than none."""


def seen_keys(pattern: Pattern, i: int, queries: int, keys: int, prefix: int, head: int) -> set[int]:
    """The positions that query i sees, in the words of each paper; some may not exist."""
    everything, past = set(range(keys)), set(range(i + 1))
    offset = keys - queries if getattr(pattern, "alignment", "upper_left") == "lower_right" else 0
    match pattern:
        case Full():
            return everything
        case Causal():
            return set(range(i + offset + 1))
        case PrefixLM():
            return past | set(range(prefix))
        case SlidingWindow(left, right):
            first = 0 if left is None else i + offset - left
            last = keys - 1 if right is None else i + offset + right
            return set(range(first, last + 1))
        case Dilated(left, right, dilation):
            return {i + m * dilation for m in range(-left, right + 1)}
        case GlobalLocal(left, right, tokens, causal):
            near, sinks = set(range(i - left, i + right + 1)), set(range(tokens))
            if causal:
                return (near | sinks) & past
            return everything if i < tokens else near | sinks
        case Strided(stride):
            return set(range(max(0, i - stride), i + 1)) | {j for j in past if (i - j) % stride == 0}
        case Fixed(block, columns):
            return {j for j in past if i // block == j // block or j % block in range(block - columns, block)}
        case BlockSparse(block, layout, causal):
            row = layout[head % len(layout)][i // block]
            shown = {c * block + n for c, entry in enumerate(row) if entry == "1" for n in range(block)}
            return shown & past if causal else shown
    raise AssertionError(pattern)


def by_definition(pattern: Pattern, queries: int, keys: int) -> NDArray[np.bool_]:
    """(B, H, S, T), one pair at a time."""
    shown = np.zeros((len(PREFIXES), HEADS, queries, keys), dtype=bool)
    for b, h, i in np.ndindex(shown.shape[:3]):
        shown[b, h, i, sorted(seen_keys(pattern, i, queries, keys, int(PREFIXES[b]), h) & set(range(keys)))] = True
    return shown


def fitting(pattern: Pattern, *sizes: int) -> list[int]:
    """Sizes, cut to what a layout describes."""
    return [min(size, longest(pattern) or size) for size in sizes]


@pytest.mark.parametrize(
    ("pattern", "queries", "keys", "rows"),
    [
        (Full(), 2, 3, "111 111"),
        (Causal(), 2, 4, "1000 1100"),
        (Causal("lower_right"), 2, 4, "1110 1111"),
        (Causal("lower_right"), 3, 1, "0 0 1"),
        (SlidingWindow(1, 0), 4, 4, "1000 1100 0110 0011"),
        (SlidingWindow(0, 1), 3, 4, "1100 0110 0011"),
        (SlidingWindow(1, 0, "lower_right"), 2, 4, "0110 0011"),
        (SlidingWindow(None, 1), 2, 3, "110 111"),
        (SlidingWindow(0, None), 2, 3, "111 011"),
        (Dilated(1, 1, 2), 5, 5, "10100 01010 10101 01010 00101"),
        (Dilated(2, 0, 3), 8, 7, "1000000 0100000 0010000 1001000 0100100 0010010 1001001 0100100"),
        (GlobalLocal(1, 1, 1), 5, 5, "11111 11100 11110 10111 10011"),
        (GlobalLocal(0, 1, 2), 4, 6, "111111 111111 111100 110110"),
        (GlobalLocal(1, 0, 1, causal=True), 5, 5, "10000 11000 11100 10110 10011"),
        (GlobalLocal(0, 0, 3, causal=True), 5, 5, "10000 11000 11100 11110 11101"),
        (Strided(3), 7, 7, "1000000 1100000 1110000 1111000 0111100 0011110 1001111"),
        (Fixed(3), 7, 7, "1000000 1100000 1110000 0011000 0011100 0011110 0010011"),
        (Fixed(3, 2), 7, 7, "1000000 1100000 1110000 0111000 0111100 0111110 0110111"),
        (BlockSparse(2, LAYOUT), 6, 5, "11110 11110 00111 00111 11001 11001"),
        (BlockSparse(2, LAYOUT, causal=True), 6, 6, "100000 110000 001000 001100 110010 110011"),
        (BlockSparse(2, LAYOUT), 1, 1, "1"),
    ],
    ids=lambda x: x.summary() if hasattr(x, "summary") else str(x),
)
def test_pictures(pattern: Pattern, queries: int, keys: int, rows: str) -> None:
    shown = visible(pattern, queries, keys)
    drawn = ["".join("01"[int(seen)] for seen in row) for row in shown.reshape(queries, keys)]
    assert drawn == rows.split()


def test_pictures_that_differ_by_row_and_by_head() -> None:
    shown = visible(PrefixLM(), 3, 4, np.array([0, 2]))
    assert shown.shape == (2, 1, 3, 4)
    assert shown[:, 0].astype(int).tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]],
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]],
    ]
    shown = visible(BlockSparse(1, TWO_LAYOUTS), 2, 2)
    assert shown.astype(int).tolist() == [[[1, 0], [1, 1]], [[0, 1], [1, 0]]]


@given(patterns, lengths, lengths)
def test_numpy_is_the_definition(pattern: Pattern, queries: int, keys: int) -> None:
    queries, keys = fitting(pattern, queries, keys)
    expected = by_definition(pattern, queries, keys)
    got = visible(pattern, queries, keys, PREFIXES if isinstance(pattern, PrefixLM) else None)
    np.testing.assert_array_equal(np.broadcast_to(got, expected.shape), expected)


@given(patterns, lengths, lengths)
def test_torch_is_numpy(pattern: Pattern, queries: int, keys: int) -> None:
    queries, keys = fitting(pattern, queries, keys)
    prefix = PREFIXES if isinstance(pattern, PrefixLM) else None
    got = torch_naive.visible(pattern, queries, keys, prefix=None if prefix is None else torch.tensor(prefix))
    expected = visible(pattern, queries, keys, prefix)
    assert got.dtype == torch.bool
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got.numpy(), expected)


def graph_of(pattern: Pattern, square: bool) -> onnxruntime.InferenceSession:
    """A model of q, k and prefix whose output is the pattern's formula and nothing else."""
    b = Builder()
    q, k = (ir.val(name, ir.DataType.FLOAT, ir.Shape([1, 1, f"{name}_length", 1])) for name in "qk")
    prefix = ir.val("prefix", ir.DataType.INT64, ir.Shape(["batch"]))
    shown = pattern.sees(GraphPlaces(b, q, k, square, prefix)).value
    shown.name, shown.type = "shown", ir.TensorType(ir.DataType.BOOL)
    graph = ir.Graph([q, k, prefix], [shown], nodes=list(b.nodes), opset_imports={"": 18}, name="pattern")
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@given(patterns, st.booleans(), st.lists(st.tuples(lengths, lengths), min_size=4, max_size=4))
def test_a_graph_is_numpy(pattern: Pattern, square: bool, sizes: list[tuple[int, int]]) -> None:
    session = graph_of(pattern, square)
    for size in sizes:
        queries, keys = fitting(pattern, size[0], size[0] if square else size[1])
        feeds = {"q": np.zeros((1, 1, queries, 1), np.float32), "k": np.zeros((1, 1, keys, 1), np.float32), "prefix": PREFIXES}
        (got,) = session.run(None, feeds)
        expected = visible(pattern, queries, keys, PREFIXES if isinstance(pattern, PrefixLM) else None)
        np.testing.assert_array_equal(np.broadcast_to(got, expected.shape), expected)


@given(patterns, st.booleans())
@example(Strided(1), False)
@example(Strided(2), False)
@example(Fixed(2, 2), False)
@example(Fixed(3, 2), False)
@example(SlidingWindow(None, 1), False)
@example(SlidingWindow(None, 1, "lower_right"), False)
@example(Causal("lower_right"), False)
@example(BlockSparse(1, (("10", "11"),)), False)
@example(BlockSparse(1, (("10", "01"),)), False)
@example(BlockSparse(1, (("10", "10"),)), True)
@example(BlockSparse(1, (("01", "11"),)), True)
@example(BlockSparse(1, (("10", "01"), ("10", "00"))), True)
def test_always_sees_is_exact(pattern: Pattern, square: bool) -> None:
    """True where no row is ever empty; False only where one is, at sizes beyond every window that is drawn here."""
    sizes = range(1, min(longest(pattern) or 13, 13) + 1)
    prefix = np.zeros(1, np.int64)
    full = all(
        visible(pattern, queries, keys, prefix).any(axis=-1).all()
        for queries in sizes
        for keys in ([queries] if square else sizes)
    )
    assert always_sees(pattern, square) == full
