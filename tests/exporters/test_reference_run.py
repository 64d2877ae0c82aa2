"""The reference: the untouched module over the size grid, and models that cannot be a reference."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeattn.errors import CaptureError, SourceError
from edgeattn.exporters.reference_run import BATCHES, LENGTHS, case_name, run_reference, size_grid
from edgeattn.exporters.sources.base import Dimension, Source
from edgeattn.exporters.sources.module import from_module

BATCH, SEQUENCE = Dimension("batch", batch=True), Dimension("sequence")


def _grid(*dimensions: Dimension) -> list[dict[str, int]]:
    return size_grid({d.name: d for d in dimensions})


def test_batch_and_sequence_give_every_pair() -> None:
    grid = _grid(BATCH, SEQUENCE)
    assert [(sizes["batch"], sizes["sequence"]) for sizes in grid] == [(b, s) for b in BATCHES for s in LENGTHS]
    assert (BATCHES, LENGTHS) == ((1, 3, 8), (1, 7, 128, 333, 512))


def test_a_limit_is_a_size_and_sizes_beyond_it_are_not() -> None:
    assert [sizes["sequence"] for sizes in _grid(Dimension("sequence", limit=100))] == [1, 7, 100]
    assert [sizes["sequence"] for sizes in _grid(Dimension("sequence", limit=1))] == [1]
    assert [sizes["sequence"] for sizes in _grid(Dimension("sequence", least=5, limit=300))] == [5, 7, 128, 300]
    assert _grid(Dimension("batch", limit=2, batch=True)) == [{"batch": 1}, {"batch": 2}]


def test_one_kind_of_dimension_alone() -> None:
    assert _grid(BATCH) == [{"batch": 1}, {"batch": 3}, {"batch": 8}]
    assert [sizes["sequence"] for sizes in _grid(SEQUENCE)] == list(LENGTHS)


def test_two_lengths_are_not_always_equal_and_each_takes_every_size() -> None:
    grid = _grid(BATCH, Dimension("queries"), Dimension("keys"))
    pairs = [(sizes["queries"], sizes["keys"]) for sizes in grid]
    assert all(queries != keys for queries, keys in pairs)
    assert {queries for queries, _ in pairs} == {keys for _, keys in pairs} == set(LENGTHS)


def test_nothing_dynamic_gives_several_draws() -> None:
    assert size_grid({}) == [{}, {}, {}]
    assert [case_name({}, i) for i in range(2)] == ["case0", "case1"]
    assert case_name({"batch": 3, "sequence": 128}, 4) == "batch3-sequence128"


class Wrap(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def _source(function: Callable[[Tensor], object], dynamic: bool = True) -> Source:
    axes = {"x": {0: "batch", 1: torch.export.Dim("sequence", max=16)}} if dynamic else None
    return from_module(Wrap(function), {"x": torch.randn(2, 5, 4)}, axes, name="mine")


def test_cases_are_what_the_module_says() -> None:
    cases = run_reference(_source(lambda x: {"twice": 2 * x, "none": None}))
    assert [case.name for case in cases][:3] == ["batch1-sequence1", "batch1-sequence7", "batch1-sequence16"]
    assert len({case.name for case in cases}) == len(cases) == 9
    for case in cases:
        assert list(case.outputs) == ["twice"]
        np.testing.assert_array_equal(case.outputs["twice"], 2 * case.inputs["x"])
        assert case.inputs["x"].shape == (case.sizes["batch"], case.sizes["sequence"], 4)


def test_draws_of_a_static_model_differ() -> None:
    first, second, _ = run_reference(_source(lambda x: x * 2, dynamic=False))
    assert not np.array_equal(first.inputs["x"], second.inputs["x"])


@pytest.mark.parametrize(
    "random",
    [
        lambda x: x + torch.randn(x.shape),
        lambda x: nn.functional.dropout(x, 0.1, training=True),
        lambda x: {"fine": x * 1, "loose": nn.functional.dropout(x, 0.5, training=True)},
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_random_model_is_refused(random: Callable[[Tensor], object], dynamic: bool) -> None:
    with pytest.raises(SourceError, match=r"mine: output '(output|loose)' differs when the model is run twice"):
        run_reference(_source(random, dynamic))


def test_equal_nans_are_no_randomness() -> None:
    assert len(run_reference(_source(lambda x: x * torch.nan))) == 9


def test_a_model_that_writes_into_its_inputs_is_compared_on_what_it_was_given() -> None:
    for case in run_reference(_source(lambda x: x.add_(1))):
        np.testing.assert_array_equal(case.outputs["output"], case.inputs["x"] + 1)


def test_a_model_that_fails_at_a_size_names_it_and_the_fix() -> None:
    def short(x: Tensor) -> Tensor:
        if x.shape[1] > 10:
            raise ValueError("too long for me")
        return x

    with pytest.raises(SourceError, match=r"mine: the model itself fails in PyTorch at batch=1, sequence=16") as caught:
        run_reference(_source(short))
    assert "ValueError: too long for me" in str(caught.value)
    assert "torch.export.Dim(name, min=..., max=...)" in str(caught.value)


def test_a_static_model_that_fails_says_so() -> None:
    with pytest.raises(SourceError, match=r"fails in PyTorch at the example's size: RuntimeError"):
        run_reference(_source(lambda x: x @ x, dynamic=False))


def test_other_results_than_tensors_are_refused() -> None:
    with pytest.raises(CaptureError, match="got str"):
        run_reference(_source(lambda x: "text"))


def _shakable(moves: Callable[[Tensor], float]) -> Source:
    """Doubles draws that are 0, 1, 2, ... in turn; within `shaken` it adds `moves` of the draw."""
    shaking, drawn = [False], itertools.count()

    @contextlib.contextmanager
    def shaken() -> Iterator[None]:
        shaking[0] = True
        yield
        shaking[0] = False

    source = _source(lambda x: 2 * x + (moves(x) if shaking[0] else 0.0), dynamic=False)
    return replace(source, sampler=lambda sizes, generator: {"x": torch.full((2, 5, 4), float(next(drawn)))}, shaken=shaken)


def test_inputs_whose_answer_rounding_decides_are_drawn_again() -> None:
    first, second, third = run_reference(_shakable(lambda x: 1e-3 if x.max() < 2 else 0.0))
    assert [case.inputs["x"].max() for case in (first, second, third)] == [2.0, 3.0, 4.0]
    np.testing.assert_array_equal(first.outputs["output"], np.full((2, 5, 4), 4.0))


def test_where_rounding_decides_every_draw_it_is_the_one_that_moves_least() -> None:
    cases = run_reference(_shakable(lambda x: 1.0 if x.max() % 4 != 2 else 0.5))
    assert [case.inputs["x"].max() for case in cases] == [2.0, 6.0, 10.0]
