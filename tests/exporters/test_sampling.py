"""Inputs of other sizes than the example's stay plausible; padding is always tried."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.exporters.sources.base import padded_mask
from edgeattn.exporters.sources.module import from_module
from edgeattn.exporters.sources.sampling import sample_like


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_come_from_the_examples_own_values(dtype: torch.dtype) -> None:
    example = torch.tensor([[0, 1], [1, 0]]).to(dtype) if dtype is torch.bool else torch.tensor([[3, 7], [7, 11]]).to(dtype)
    drawn = sample_like(example, (40, 5), _generator())
    assert (drawn.dtype, drawn.shape) == (dtype, (40, 5))
    assert set(drawn.flatten().tolist()) == set(example.flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_have_the_examples_mean_and_deviation(dtype: torch.dtype) -> None:
    example = (torch.randn(1000, generator=_generator()) * 3 + 20).to(dtype)
    drawn = sample_like(example, (2000,), _generator(1)).float()
    assert abs(float(drawn.mean()) - 20) < 0.5
    assert abs(float(drawn.std()) - 3) < 0.3
    assert sample_like(example, (4,), _generator()).dtype is dtype


def test_a_float_mask_stays_a_mask() -> None:
    """Infinities have no mean: what is drawn must not be NaN."""
    drawn = sample_like(torch.tensor([0.0, -torch.inf]), (50, 3), _generator())
    assert set(drawn.flatten().tolist()) == {0.0, -torch.inf}


@pytest.mark.parametrize("example", [torch.tensor(2.0), torch.zeros(3, 3), torch.full((4,), 7.0), torch.tensor(5)])
def test_examples_without_spread_still_give_numbers(example: torch.Tensor) -> None:
    drawn = sample_like(example, (30,), _generator())
    assert bool(torch.isfinite(drawn.float()).all())
    assert len(set(drawn.tolist())) == (30 if example.is_floating_point() else 1)


def test_a_scalar_shape() -> None:
    assert sample_like(torch.tensor([4, 4]), (), _generator()).shape == ()


def test_the_generator_decides() -> None:
    example = torch.randn(5)
    assert torch.equal(sample_like(example, (9,), _generator(3)), sample_like(example, (9,), _generator(3)))


def test_an_empty_example_is_an_error() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        sample_like(torch.empty(0), (3,), _generator())


@given(batch=st.integers(1, 9), length=st.integers(1, 40), dtype=st.sampled_from([torch.int64, torch.int32, torch.bool]))
def test_padded_masks(batch: int, length: int, dtype: torch.dtype) -> None:
    like = torch.ones((batch, length), dtype=dtype)
    mask = padded_mask(like)
    assert (mask.dtype, mask.shape) == (dtype, like.shape)
    kept = mask.long().sum(dim=1).tolist()
    assert min(kept) >= 1  # a row of padding alone means nothing
    assert kept == sorted(kept, reverse=True)
    assert torch.equal(mask.long(), (torch.arange(length)[None, :] < torch.tensor(kept)[:, None]).long())  # at the end
    if batch > 1:
        assert kept[0] == length
        assert kept[-1] < length or length == 1  # several rows always hold a padded one
    assert bool(like.all())  # the argument is left alone


def test_one_row_is_tried_with_and_without_padding() -> None:
    assert padded_mask(torch.ones(1, 7, dtype=torch.int64)).tolist() == [[1, 1, 1, 1, 0, 0, 0]]
    assert padded_mask(torch.ones(1, 8, dtype=torch.int64)).tolist() == [[1] * 8]
    assert padded_mask(torch.ones(1, 1, dtype=torch.int64)).tolist() == [[1]]


class _Any(torch.nn.Module):
    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return x + attention_mask


@pytest.mark.parametrize(
    ("mask", "is_padding"),
    [
        (torch.ones(2, 5, dtype=torch.int64), True),
        (torch.ones(2, 5, dtype=torch.bool), True),
        (torch.zeros(2, 5), False),
        (torch.ones(2, 1, 5, 5, dtype=torch.bool), False),
    ],
)
def test_what_counts_as_the_padding_input(mask: torch.Tensor, is_padding: bool) -> None:
    source = from_module(_Any(), {"x": torch.randn(2, 5), "attention_mask": mask})
    assert source.padding == ("attention_mask" if is_padding else None)


def test_a_drawn_batch_holds_padding() -> None:
    axes = {0: "batch", 1: "length"}
    inputs = {"x": torch.randn(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    source = from_module(_Any(), inputs, {"x": axes, "attention_mask": axes})
    drawn = source.sample({"batch": 3, "length": 6}, _generator())
    assert drawn["attention_mask"].sum(dim=1).tolist() == [6, 4, 2]
    assert drawn["x"].shape == (3, 6)


def test_sizes_to_trace_with_are_different_and_never_one() -> None:
    dynamic = {"x": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "keys"}}
    inputs = {"x": torch.randn(1, 1), "attention_mask": torch.ones(1, 1, dtype=torch.int64)}
    sizes = from_module(_Any(), inputs, dynamic).capture_sizes()
    assert sizes == {"batch": 2, "length": 3, "keys": 4}


def test_sizes_to_trace_with_stay_between_the_limits() -> None:
    batch, length = torch.export.Dim("batch", max=1), torch.export.Dim("length", min=8, max=9)
    inputs = {"x": torch.randn(1, 8), "attention_mask": torch.ones(1, 8)}
    source = from_module(_Any(), inputs, {"x": {0: batch, 1: length}})
    assert source.capture_sizes() == {"batch": 1, "length": 8}
