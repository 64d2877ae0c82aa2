"""What is left out of a comparison, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.manifest import OutputInfo, TensorInfo
from edgeattn.padding import valid_positions

PADDING = TensorInfo("mask", "int64", ("batch", "sequence"))
CACHED = TensorInfo("attention_mask", "int64", ("batch", "past + sequence"))


@pytest.mark.parametrize(
    ("dims", "concerned"),
    [
        (("batch", "sequence", 4), True),
        (("batch", "sequence"), True),
        (("batch", 4), False),
        (("batch", 2, "sequence"), False),
        (("batch", 2, "sequence", "sequence"), False),
        (("sequence", "batch"), False),
    ],
)
def test_padding_concerns_outputs_that_carry_its_axes(dims: tuple[int | str, ...], concerned: bool) -> None:
    valid = valid_positions(OutputInfo("y", "float32", dims), PADDING, {"mask": np.array([[1, 1, 0]])})
    assert (valid is not None) == concerned
    if valid is not None:
        assert valid.tolist() == [[True, True, False]]


def test_no_padding_input_leaves_nothing_out() -> None:
    output = OutputInfo("y", "float32", ("batch", "sequence", 4))
    assert valid_positions(output, None, {}) is None
    assert valid_positions(output, PADDING, {}) is None
    fixed = TensorInfo("mask", "int64", (1, 16))
    assert valid_positions(OutputInfo("y", "float32", (1, 16)), fixed, {"mask": np.zeros((1, 16))}) is None


def test_logits_that_were_asked_for_are_new_positions() -> None:
    """Two of five are the past."""
    mask = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 0, 1]])
    feeds = {"attention_mask": mask, "input_ids": np.zeros((2, 3)), "logits_to_keep": np.array([2, 0, 2, 1])}
    valid = valid_positions(OutputInfo("logits", "float32", ("batch", "kept", 50)), CACHED, feeds)
    assert valid is not None
    assert valid.astype(int).tolist() == [[0, 1, 0, 1], [1, 1, 1, 0]]


def test_a_cache_holds_padding_where_its_mask_says() -> None:
    feeds = {"attention_mask": np.array([[0, 1, 1]]), "input_ids": np.zeros((1, 1))}
    valid = valid_positions(OutputInfo("present.0.key", "float32", ("batch", 3, "past + sequence", 8)), CACHED, feeds)
    assert valid is not None
    assert valid.astype(int).tolist() == [[[0, 1, 1]] * 3]
