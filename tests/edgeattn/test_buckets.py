"""Which fixed sizes take feeds, how feeds grow to them, and that what comes out is cut back to exactly what went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.buckets import cut, fits, no_bucket, pad, sizes_of, smallest
from edgeattn.manifest import OutputInfo, TensorInfo

IDS = TensorInfo("ids", "int64", ("batch", "sequence"))
MASK = TensorInfo("mask", "int64", ("batch", "sequence"))
IMAGE = TensorInfo("image", "float32", ("batch", 3, "height"))
HIDDEN = OutputInfo("hidden", "float32", ("batch", "sequence", 4))
POOLED = OutputInfo("pooled", "float32", ("batch", 4))
BUCKETS = ({"batch": 1, "sequence": 8}, {"batch": 4, "sequence": 8}, {"batch": 1, "sequence": 64})
BOTH = ("batch", "sequence")


@pytest.mark.parametrize(
    ("asked", "pads", "index"),
    [
        ({"batch": 1, "sequence": 8}, (), 0),
        ({"batch": 1, "sequence": 7}, (), None),
        ({"batch": 1, "sequence": 7}, BOTH, 0),
        ({"batch": 2, "sequence": 3}, BOTH, 1),
        ({"batch": 2, "sequence": 8}, ("sequence",), None),
        ({"batch": 4, "sequence": 1}, ("sequence",), 1),
        ({"batch": 1, "sequence": 9}, BOTH, 2),
        ({"batch": 2, "sequence": 9}, BOTH, None),
        ({"batch": 1, "sequence": 65}, BOTH, None),
        ({"sequence": 20}, BOTH, 2),
    ],
)
def test_the_smallest_that_holds_them(asked: dict[str, int], pads: tuple[str, ...], index: int | None) -> None:
    assert smallest(BUCKETS, asked, pads) == index


def test_the_error_names_all_sizes() -> None:
    message = str(no_bucket(BUCKETS, {"batch": 2, "sequence": 9}, BOTH))
    assert "got batch=2,sequence=9" in message
    assert "batch=1,sequence=8; batch=4,sequence=8; batch=1,sequence=64" in message
    assert "up to one of these in batch and sequence" in message
    assert "exactly one of these" in str(no_bucket(BUCKETS, {"batch": 2, "sequence": 9}, ()))


def test_padding_is_zeros_and_a_larger_batch_repeats_its_last_row() -> None:
    feeds = {"ids": np.array([[1, 2], [3, 4]]), "mask": np.array([[1, 1], [1, 0]])}
    grown = pad(feeds, (IDS, MASK), {"batch": 3, "sequence": 4}, MASK)
    assert grown["ids"].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [3, 4, 0, 0]]
    assert grown["mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert feeds["ids"].shape == (2, 2)


def test_sizes_are_read_from_the_arrays() -> None:
    arrays = {"ids": np.zeros((2, 5)), "image": np.zeros((2, 3, 7))}
    assert sizes_of((IDS, IMAGE), arrays) == {"batch": 2, "sequence": 5, "height": 7}


sizes = st.fixed_dictionaries({"batch": st.integers(1, 5), "sequence": st.integers(1, 9)})


@given(asked=sizes, bucket=sizes, seed=st.integers(0, 9))
def test_what_grew_is_cut_back(asked: dict[str, int], bucket: dict[str, int], seed: int) -> None:
    """A model that gives each position's features back: whatever it does at padding, the results are those of the feeds."""
    rng = np.random.default_rng(seed)
    feeds = {"ids": rng.integers(0, 9, (asked["batch"], asked["sequence"]))}
    feeds["mask"] = np.ones_like(feeds["ids"])
    holds = asked["batch"] <= bucket["batch"] and asked["sequence"] <= bucket["sequence"]
    assert fits(bucket, asked, BOTH) == holds
    if not holds:
        return
    grown = pad(feeds, (IDS, MASK), bucket, MASK)
    assert grown["ids"].shape == (bucket["batch"], bucket["sequence"])
    hidden = np.repeat(grown["ids"][:, :, None], 4, axis=2).astype(np.float32)
    results = {"hidden": hidden, "pooled": (grown["ids"] * grown["mask"]).sum(1)[:, None] * np.ones(4, np.float32)}
    got = cut(results, (HIDDEN, POOLED), asked)
    np.testing.assert_array_equal(got["hidden"], np.repeat(feeds["ids"][:, :, None], 4, axis=2))
    np.testing.assert_array_equal(got["pooled"][:, 0], feeds["ids"].sum(1))
    assert got["hidden"].flags.c_contiguous


def test_arrays_of_the_right_size_are_not_copied() -> None:
    array = np.zeros((2, 5, 4), np.float32)
    assert cut({"hidden": array}, (HIDDEN,), {"batch": 2, "sequence": 5})["hidden"] is array
    ids = np.zeros((2, 5), np.int64)
    assert pad({"ids": ids}, (IDS,), {"batch": 2, "sequence": 5}, MASK)["ids"] is ids
