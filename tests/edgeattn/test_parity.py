"""The comparison itself: each test is a way to be wrong that must not pass, or a difference that must not fail."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeattn.errors import UsageError
from edgeattn.manifest import OutputInfo
from edgeattn.parity import MAX_DB, compare_arrays, compare_outputs, passed, worst
from edgeattn.tolerance import tolerance

Array = NDArray[Any]
ATOL = tolerance("activation", "float32").atol


@pytest.fixture
def reference() -> Array:
    """(3, 5, 4), all within one unit, so that the bound is the table's atol itself."""
    return np.random.default_rng(0).uniform(-0.9, 0.9, (3, 5, 4)).astype(np.float32)


def test_equal_arrays_pass(reference: Array) -> None:
    result = compare_arrays("y", reference.copy(), reference, "activation")
    assert result.passed
    assert (result.max_abs, result.required_atol, result.outlier_share, result.sqnr_db) == (0, 0, 0, MAX_DB)
    assert result.elements == reference.size
    assert result.cosine == pytest.approx(1)


def test_only_the_last_row_wrong_fails(reference: Array) -> None:
    got = reference.copy()
    got[-1, -1, -1] += 10 * ATOL
    result = compare_arrays("y", got, reference, "activation")
    assert not result.passed
    assert result.max_abs == pytest.approx(10 * ATOL, rel=0.01)
    assert result.outlier_share == pytest.approx(1 / reference.size)


def test_required_atol_is_the_one_that_would_have_passed(reference: Array) -> None:
    got = reference + np.float32(3e-4)
    result = compare_arrays("y", got, reference, "activation")
    assert not result.passed
    assert result.required_atol == pytest.approx(3e-4, rel=0.01)
    assert "3e-04" in result.reason or "0.0003" in result.reason


def test_the_bound_counts_in_units_of_the_reference(reference: Array) -> None:
    """An error of 1e-3 is far over atol for values below 1, and far below it for values around 1000."""
    error = np.float32(1e-3)
    assert not compare_arrays("y", reference + error, reference, "activation").passed
    assert compare_arrays("y", reference * 1000 + error, reference * 1000, "activation").passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_fails(reference: Array, bad: float) -> None:
    got = reference.copy()
    got[1, 2, 3] = bad
    result = compare_arrays("y", got, reference, "activation")
    assert not result.passed
    assert "1 of 60 elements" in result.reason
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_a_number_where_the_reference_has_none_fails(reference: Array) -> None:
    expected = reference.copy()
    expected[0, 0, 0] = np.nan
    assert not compare_arrays("y", reference, expected, "activation").passed


def test_the_same_nan_and_infinity_pass(reference: Array) -> None:
    expected = reference.copy()
    expected[0, 0, :2] = np.nan, np.inf
    assert compare_arrays("y", expected.copy(), expected, "activation").passed


def test_infinity_of_the_other_sign_fails() -> None:
    assert not compare_arrays("y", np.array([np.inf, 1], np.float32), np.array([-np.inf, 1], np.float32), "activation").passed


def test_shape_and_dtype_are_part_of_the_result(reference: Array) -> None:
    assert "shape" in compare_arrays("y", reference.swapaxes(0, 1), reference, "activation").reason
    assert "dtype" in compare_arrays("y", reference.astype(np.float64), reference, "activation").reason
    broadcasts = compare_arrays("y", reference[:1], reference, "activation")
    assert not broadcasts.passed
    assert math.isnan(broadcasts.max_abs)


def test_integers_must_be_equal_even_beyond_the_floats() -> None:
    expected = np.array([2**53, 5])
    assert compare_arrays("ids", expected.copy(), expected, "integer").passed
    result = compare_arrays("ids", expected + np.array([1, 0]), expected, "integer")
    assert not result.passed
    assert result.max_abs == 1


def test_nothing_compared_fails(reference: Array) -> None:
    empty = compare_arrays("y", reference[:0], reference[:0], "activation")
    hidden = compare_arrays("y", reference, reference, "activation", np.zeros((3, 5), bool))
    for result in (empty, hidden):
        assert not result.passed
        assert "nothing was compared" in result.reason
        assert result.elements == 0


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_padded_positions_hold_numbers_where_the_reference_does(lost: float, reference: Array) -> None:
    valid = np.ones((3, 5), bool)
    valid[2, 3:] = False
    padded = reference.copy()
    padded[2, 4, 0] = lost
    result = compare_arrays("y", padded, reference, "activation", valid)
    assert not result.passed
    assert result.reason == "1 of the elements at padded positions are NaN or infinite where the reference has numbers"
    assert compare_arrays("y", padded, padded, "activation", valid).passed


def test_padded_positions_may_differ_and_valid_ones_may_not(reference: Array) -> None:
    valid = np.ones((3, 5), bool)
    valid[2, 3:] = False
    padded, real = reference.copy(), reference.copy()
    padded[2, 3:] = 1e6
    real[2, 2, 0] += 1
    result = compare_arrays("y", padded, reference, "activation", valid)
    assert result.passed
    assert result.elements == valid.sum() * 4
    assert not compare_arrays("y", real, reference, "activation", valid).passed


def test_a_mask_that_does_not_line_up_fails(reference: Array) -> None:
    assert "mask" in compare_arrays("y", reference, reference, "activation", np.ones((5, 3), bool)).reason


def test_an_unknown_tolerance_is_an_error_not_a_pass(reference: Array) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        compare_arrays("y", reference, reference, "generous")


OUTPUTS = (OutputInfo("a", "float32", ("batch", 4)), OutputInfo("b", "float32", ("batch", 4)))


def test_outputs_are_compared_by_name(reference: Array) -> None:
    expected = {"a": reference[:, 0], "b": reference[:, 1]}
    reordered = {"b": reference[:, 1], "a": reference[:, 0]}
    swapped = {"a": reference[:, 1], "b": reference[:, 0]}
    assert passed([compare_outputs(reordered, expected, OUTPUTS)])
    assert [c.passed for c in compare_outputs(swapped, expected, OUTPUTS)] == [False, False]


@pytest.mark.parametrize("missing", ["got", "expected"])
def test_a_missing_output_fails_on_either_side(reference: Array, missing: str) -> None:
    both = {"a": reference[:, 0], "b": reference[:, 1]}
    one = {"a": reference[:, 0]}
    results = compare_outputs(one, both, OUTPUTS) if missing == "got" else compare_outputs(both, one, OUTPUTS)
    assert [c.passed for c in results] == [True, False]
    assert "'b'" in results[1].reason


def test_no_case_and_no_output_have_not_passed() -> None:
    assert not passed([])
    assert not passed([()])
    assert not worst([]).passed


def test_worst_keeps_the_worst_of_each_output(reference: Array) -> None:
    fine = compare_arrays("y", reference + np.float32(1e-6), reference, "activation")
    bad = compare_arrays("y", reference + np.float32(1e-3), reference, "activation")
    shapeless = compare_arrays("z", reference[:1], reference, "activation")
    result = worst([[fine], [bad], [fine, shapeless]])
    assert not result.passed
    assert result.cases == 3
    assert result.max_abs_error == {"y": bad.max_abs}
    assert result.sqnr_db == {"y": bad.sqnr_db}
