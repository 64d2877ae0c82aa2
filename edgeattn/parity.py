"""Is it still the same model? One rule (`edgeattn.tolerance`) applied to arrays, with the numbers kept as data.

A comparison that compared nothing has failed. NaN or infinity fails unless the reference has the same value there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeattn.manifest import OutputInfo, ParityResult
from edgeattn.tolerance import OutputClass, Tolerance, tolerance

Array = NDArray[Any]
Mask = NDArray[np.bool_]

MAX_DB = 300.0
"""SQNR reported for arrays that are equal bit for bit, where the ratio itself has no number."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one output lies from its reference.

    Errors are in the output's own units. `required_atol` is the `atol` of `edgeattn.tolerance` that would have passed,
    `outlier_share` the share of elements beyond the one in the table. Where nothing could be measured (a wrong shape,
    nothing to compare) the numbers are NaN and `reason` says why.
    """

    output: str
    tolerance: str
    dtype: str
    elements: int
    max_abs: float
    mean_abs: float
    sqnr_db: float
    cosine: float
    outlier_share: float
    required_atol: float
    passed: bool
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a number that does not exist is None."""
        return {key: _finite(value) for key, value in dataclasses.asdict(self).items()}


def compare_arrays(name: str, got: Array, expected: Array, kind: str, valid: Array | None = None) -> Comparison:
    """Compare `got` with `expected` under the tolerance class `kind`.

    `valid` (bool) lines up with the leading axes of `expected`; where it is False the position is left out, but has to be a
    number where the reference has one: whatever reads it next, a pooling say, would spread it.

    Raises:
        UsageError: the tolerance table has no row for this class and dtype.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    rule = tolerance(cast(OutputClass, kind), str(expected.dtype))
    if reason := _mismatch(got, expected, valid):
        return _unmeasured(name, kind, str(expected.dtype), reason)
    if valid is not None:
        selected = spread(valid, expected.shape)
        if lost := int((~_isfinite(got) & _isfinite(expected) & ~selected).sum()):
            reason = f"{lost} of the elements at padded positions are NaN or infinite where the reference has numbers"
            return _unmeasured(name, kind, str(expected.dtype), reason)
        got, expected = got[selected], expected[selected]
    if expected.size == 0:
        return _unmeasured(name, kind, str(expected.dtype), "nothing was compared: no element, or every position is padding")
    return _measure(name, kind, rule, got.reshape(-1), expected.reshape(-1))


def compare_outputs(
    got: Mapping[str, Array],
    expected: Mapping[str, Array],
    outputs: Sequence[OutputInfo],
    valid: Mapping[str, Mask | None] | None = None,
) -> tuple[Comparison, ...]:
    """Compare every output of `outputs` by name; one that either side lacks has failed."""
    valid = valid or {}
    return tuple(_compare_named(info, got, expected, valid.get(info.name)) for info in outputs)


def spread(valid: Array, shape: tuple[int, ...]) -> Mask:
    """`valid`, given on the leading axes, broadcast to all of `shape`."""
    valid = np.asarray(valid, dtype=bool)
    return np.broadcast_to(valid.reshape(valid.shape + (1,) * (len(shape) - valid.ndim)), shape)


def passed(cases: Iterable[Sequence[Comparison]]) -> bool:
    """True when there is at least one case, every case compared something, and all of it passed."""
    listed = list(cases)
    return bool(listed) and all(case and all(c.passed for c in case) for case in listed)


def worst(cases: Sequence[Sequence[Comparison]]) -> ParityResult:
    """The worst of each output over all cases. An output without a number (a wrong shape, say) is in neither dict."""
    max_abs: dict[str, float] = {}
    sqnr: dict[str, float] = {}
    for comparison in (c for case in cases for c in case):
        name = comparison.output
        if math.isfinite(comparison.max_abs):
            max_abs[name] = max(max_abs.get(name, 0.0), comparison.max_abs)
        if math.isfinite(comparison.sqnr_db):
            sqnr[name] = min(sqnr.get(name, MAX_DB), comparison.sqnr_db)
    return ParityResult(passed(cases), len(cases), max_abs, sqnr)


def _compare_named(info: OutputInfo, got: Mapping[str, Array], expected: Mapping[str, Array], valid: Mask | None) -> Comparison:
    for side, arrays in (("the reference", expected), ("the runtime", got)):
        if info.name not in arrays:
            reason = f"{side} has no output {info.name!r}; it has: {', '.join(arrays) or 'none'}"
            return _unmeasured(info.name, info.tolerance, info.dtype, reason)
    return compare_arrays(info.name, got[info.name], expected[info.name], info.tolerance, valid)


def _mismatch(got: Array, expected: Array, valid: Array | None) -> str:
    if got.shape != expected.shape:
        return f"shape {list(got.shape)}, expected {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"dtype {got.dtype}, expected {expected.dtype}"
    if valid is not None and expected.shape[: np.ndim(valid)] != np.shape(valid):
        return f"validity mask of shape {list(np.shape(valid))} does not fit an output of shape {list(expected.shape)}"
    return ""


def _measure(name: str, kind: str, rule: Tolerance, got: Array, expected: Array) -> Comparison:
    """Both flat, of one shape and dtype, not empty."""
    same = (got == expected) | (_isnan(got) & _isnan(expected))
    a, e = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, 0.0, np.abs(a - e))
    if expected.dtype.kind not in "fc":
        error = np.where(same, 0.0, np.maximum(error, 1.0))  # integers beyond 2**53 differ though their floats do not
    strange = ~same & ~(np.isfinite(a) & np.isfinite(e))
    error = np.where(strange, np.inf, error)
    finite = np.where(np.isfinite(e), e, 0.0)
    unit = max(1.0, math.sqrt(float(np.mean(np.square(finite)))))
    needed = (error - rule.rtol * np.abs(finite)) / unit
    share = float(np.mean(needed > rule.atol))
    ok = share <= rule.outliers and not strange.any()
    return Comparison(
        output=name,
        tolerance=kind,
        dtype=str(expected.dtype),
        elements=int(expected.size),
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        sqnr_db=_sqnr(finite, error),
        cosine=_cosine(a, e),
        outlier_share=share,
        required_atol=_required(needed, rule),
        passed=ok,
        reason="" if ok else _failure(strange, error, got, expected, needed, rule),
    )


def _required(needed: Array, rule: Tolerance) -> float:
    allowed = int(rule.outliers * needed.size)
    return max(0.0, float(np.partition(needed, needed.size - 1 - allowed)[needed.size - 1 - allowed]))


def _failure(strange: Mask, error: Array, got: Array, expected: Array, needed: Array, rule: Tolerance) -> str:
    if count := int(strange.sum()):
        at = int(np.argmax(strange))
        return f"{count} of {strange.size} elements are {got[at]} (or should be) where the reference has {expected[at]}"
    return f"max error {error.max():.3g}; needs atol {_required(needed, rule):.3g}, the table allows {rule.atol:g}"


def _sqnr(expected: Array, error: Array) -> float:
    """10 log10(signal power / error power) in dB, within +-MAX_DB."""
    signal, noise = float(np.mean(np.square(expected))), float(np.mean(np.square(error)))
    if noise == 0:
        return MAX_DB
    if not math.isfinite(noise) or signal == 0:
        return -MAX_DB
    return max(-MAX_DB, min(MAX_DB, 10 * math.log10(signal / noise)))


def _cosine(got: Array, expected: Array) -> float:
    with np.errstate(all="ignore"):
        size = math.sqrt(float(np.sum(got * got)) * float(np.sum(expected * expected)))
        if size == 0:
            return 1.0 if not got.any() and not expected.any() else 0.0
        return float(np.sum(got * expected) / size)


def _isnan(array: Array) -> Mask:
    return np.isnan(array) if array.dtype.kind in "fc" else np.zeros(array.shape, dtype=bool)


def _isfinite(array: Array) -> Mask:
    return np.isfinite(array) if array.dtype.kind in "fc" else np.ones(array.shape, dtype=bool)


def _unmeasured(name: str, kind: str, dtype: str, reason: str) -> Comparison:
    nan = math.nan
    return Comparison(name, kind, dtype, 0, nan, nan, nan, nan, nan, nan, False, reason)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
