"""Feeds that do not fit: the same message from every runtime, before the runtime sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeattn.errors import FeedError
from edgeattn.runtimes.base import Session

Load = Callable[..., Session]

GOOD = {"x": np.zeros((2, 3, 8), np.float32)}
NAN = np.zeros((2, 3, 8), np.float32)
NAN[1, 2, 4] = np.nan

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "wrong name": ({"X": GOOD["x"]}, r"unknown input 'X'; known: x"),
    "extra name": ({**GOOD, "x2": GOOD["x"]}, r"unknown input 'x2'; did you mean 'x'\?"),
    "missing": ({}, r"input 'x' is missing; the model needs x"),
    "dtype": (
        {"x": GOOD["x"].astype(np.float64)},
        r"input 'x': got float64\[2, 3, 8\], expected float32\[B, S, 8\]; convert it with \.astype\('float32'\)",
    ),
    "byte order": ({"x": GOOD["x"].astype(">f4")}, r"input 'x': got >f4\[2, 3, 8\], expected float32"),
    "rank": ({"x": GOOD["x"][0]}, r"input 'x': got rank 2 \(float32\[3, 8\]\), expected rank 3 \(float32\[B, S, 8\]\)"),
    "fixed size": ({"x": GOOD["x"][..., :7]}, r"input 'x', axis 2: got size 7 .*, expected 8"),
    "empty axis": ({"x": GOOD["x"][:, :0]}, r"input 'x', axis 1 \(S\): got size 0 .*, expected at least 1"),
    "NaN": ({"x": NAN}, r"input 'x' holds NaN \(first at \(1, 2, 4\)\)"),
    "ragged list": ({"x": [[1.0], [1.0, 2.0]]}, r"input 'x': got a list that is no array"),
    "None": ({"x": None}, r"input 'x': got object\[\], expected float32\[B, S, 8\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_feed(load: Load, case: str) -> None:
    feeds, message = BAD[case]
    session = load("softmax")
    with pytest.raises(FeedError, match=message):
        session.run(feeds)
    assert session.run(GOOD)["y"].shape == (2, 3, 8)  # an error leaves the session usable


def test_nearest_names(load: Load) -> None:
    with pytest.raises(FeedError, match=r"unknown input 'masks'; did you mean 'mask'\?"):
        load("ids").run({"ids": np.zeros((1, 2), np.int64), "masks": np.ones((1, 2), np.int64)})


def test_one_of_two_missing(load: Load) -> None:
    with pytest.raises(FeedError, match=r"input 'mask' is missing; the model needs ids, mask"):
        load("ids").run({"ids": np.zeros((1, 2), np.int64)})


@pytest.mark.parametrize(("shape", "symbol", "size", "other"), [((1, 2), "B", 1, 2), ((2, 1), "S", 1, 2), ((2, 5), "S", 5, 2)])
def test_sizes_of_one_dimension_agree(load: Load, shape: tuple[int, int], symbol: str, size: int, other: int) -> None:
    """Size 1 above all: the model would broadcast it and answer."""
    with pytest.raises(FeedError, match=rf"input 'mask': {symbol} is {size}, but {other} in input 'ids'; make them equal"):
        load("ids").run({"ids": np.zeros((2, 2), np.int64), "mask": np.ones(shape, np.int64)})


def test_a_list_becomes_an_array(load: Load) -> None:
    feeds: dict[str, Any] = {"ids": [[1, 2]], "mask": [[1, 1]]}
    assert load("ids").run(feeds)["hidden"].shape == (1, 2, 8)
