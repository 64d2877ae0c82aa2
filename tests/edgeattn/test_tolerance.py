"""The table is complete, strict and sane."""

from __future__ import annotations

import pytest

from edgeattn.errors import UsageError
from edgeattn.tolerance import OUTPUT_CLASSES, TABLE, default_class, tolerance


def test_every_class_has_a_row() -> None:
    assert {kind for kind, _ in TABLE} == set(OUTPUT_CLASSES)


def test_numbers_are_bounds_that_can_fail() -> None:
    for (kind, dtype), row in TABLE.items():
        assert 0 <= row.atol < 1, (kind, dtype)
        assert 0 <= row.rtol < 1, (kind, dtype)
        assert 0 <= row.outliers < 0.5, (kind, dtype)


def test_integers_must_be_equal() -> None:
    assert all(row.atol == row.rtol == row.outliers == 0 for (kind, _), row in TABLE.items() if kind == "integer")


def test_lookup() -> None:
    assert tolerance("activation", "float32") is TABLE["activation", "float32"]


def test_lookup_of_what_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"unknown tolerance 'activation/complex64'"):
        tolerance("activation", "complex64")


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float32", "activation"),
        ("float16", "activation"),
        ("bfloat16", "activation"),
        ("int64", "integer"),
        ("bool", "integer"),
    ],
)
def test_default_class(dtype: str, kind: str) -> None:
    assert default_class(dtype) == kind
