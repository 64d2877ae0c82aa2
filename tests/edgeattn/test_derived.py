"""Dimensions that follow from others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeattn.derived import derived_size, is_derived
from edgeattn.errors import FeedError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import validate_feeds


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        ("sequence + past", 12),
        ("2*sequence", 14),
        ("batch*sequence + 1", 22),
        ("sequence", 7),
        ("sequence - 1", None),
        ("sequence//2", None),
        ("sequence**2", None),
        ("other + 1", None),
        ("9" * 5000, None),
    ],
)
def test_sums_of_products_have_a_size(dim: str, size: int | None) -> None:
    assert derived_size(dim, {"batch": 3, "sequence": 7, "past": 5}) == size


@pytest.mark.parametrize(("dim", "derived"), [(4, False), ("sequence", False), ("sequence + past", True)])
def test_a_name_of_its_own_is_not_derived(dim: int | str, derived: bool) -> None:
    assert is_derived(dim) is derived


@pytest.mark.parametrize(("length", "fits"), [(5, True), (1, False), (3, False), (6, False)])
def test_a_mask_is_as_long_as_cache_and_tokens(length: int, fits: bool) -> None:
    infos = [
        TensorInfo("attention_mask", "int64", ("batch", "sequence + past")),
        TensorInfo("input_ids", "int64", ("batch", "sequence")),
        TensorInfo("past_key_values.0.key", "float32", ("batch", 2, "past", 4)),
    ]
    feeds: dict[str, Any] = {
        "attention_mask": np.ones((1, length), np.int64),
        "input_ids": np.ones((1, 3), np.int64),
        "past_key_values.0.key": np.zeros((1, 2, 2, 4), np.float32),
    }
    if fits:
        assert set(validate_feeds(infos, feeds)) == set(feeds)
    else:
        with pytest.raises(FeedError, match=rf"'attention_mask', axis 1: got size {length}, expected sequence \+ past = 5"):
            validate_feeds(infos, feeds)
