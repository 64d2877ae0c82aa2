"""Exit codes and the hint for unknown names."""

from __future__ import annotations

import pytest

from edgeattn import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.SpecError, 2),
        (errors.SourceError, 2),
        (errors.CaptureError, 2),
        (errors.LoweringError, 2),
        (errors.BundleError, 2),
        (errors.FeedError, 2),
        (errors.RuntimeMissingError, 3),
        (errors.RuntimeRunError, 1),
        (errors.GateError, 1),
    ],
)
def test_exit_codes(error: type[errors.EdgeAttnError], code: int) -> None:
    assert issubclass(error, errors.EdgeAttnError)
    assert error.exit_code == code


def test_wrong_values_are_value_errors_too() -> None:
    assert all(issubclass(e, ValueError) for e in (errors.UsageError, errors.SpecError, errors.FeedError))


def test_unknown_offers_the_nearest_names() -> None:
    error = errors.unknown("runtime", "openvin", ["onnxruntime", "openvino"])
    assert str(error) == "unknown runtime 'openvin'; did you mean 'openvino'?"


def test_unknown_lists_all_when_nothing_is_near() -> None:
    assert str(errors.unknown("runtime", "zzz", ["b", "a"])) == "unknown runtime 'zzz'; known: a, b"
    assert str(errors.unknown("runtime", "zzz", [])) == "unknown runtime 'zzz'; known: none"
