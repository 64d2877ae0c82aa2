"""Patterns as data: nonsense cannot be built, JSON comes back, tables say what is meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeattn.errors import SpecError
from edgeattn.patterns import (
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    Full,
    GlobalLocal,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
    check_pattern,
    from_dict,
    longest,
    to_dict,
)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (Full(), "full"),
        (Causal(), "causal"),
        (Causal("lower_right"), "causal lower_right"),
        (PrefixLM(), "prefix-LM"),
        (SlidingWindow(127, 0), "window [127, 0]"),
        (SlidingWindow(3, None, "lower_right"), "window [3, all] lower_right"),
        (Dilated(2, 1, 3), "dilated [2, 1] x 3"),
        (GlobalLocal(4, 4, 2), "window [4, 4] + 2 global"),
        (GlobalLocal(4, 0, 2, causal=True), "causal window [4, 0] + 2 global"),
        (Strided(8), "strided 8"),
        (Fixed(8, 2), "fixed 8, 2 columns"),
        (BlockSparse(64, (("10", "11"),)), "blocks of 64, 75% of 2 x 2"),
        (BlockSparse(1, (("10", "11"), ("00", "00")), causal=True), "causal blocks of 1, 38% of 2 x 2"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_summary_and_json(pattern: Pattern, text: str) -> None:
    assert pattern.summary() == text
    again = from_dict(json.loads(json.dumps(to_dict(pattern))))
    assert again == pattern
    assert hash(again) == hash(pattern)


def test_a_layout_may_be_lists_and_is_stored_as_tuples() -> None:
    pattern = BlockSparse(2, [["10", "11"]])  # type: ignore[arg-type]
    assert pattern == BlockSparse(2, (("10", "11"),))
    assert pattern.limit == longest(pattern) == 4
    assert longest(Strided(4)) is None


@pytest.mark.parametrize(
    ("pattern", "fields", "message"),
    [
        (Causal, {"alignment": "left"}, "alignment must be one of upper_left, lower_right, got 'left'"),
        (SlidingWindow, {"left": -1, "right": 0}, r"SlidingWindow\.left must be a whole number >= 0 or None, got -1"),
        (SlidingWindow, {"left": 1, "right": 0.5}, r"SlidingWindow\.right must be a whole number >= 0 or None, got 0\.5"),
        (SlidingWindow, {"left": True, "right": 0}, r"SlidingWindow\.left must be a whole number"),
        (SlidingWindow, {"left": None, "right": None}, r"hides nothing: use Full\(\)"),
        (SlidingWindow, {"left": None, "right": 0}, r"is Causal\(\): use that"),
        (SlidingWindow, {"left": 1, "right": 0, "alignment": ""}, "alignment must be one of upper_left, lower_right, got ''"),
        (Dilated, {"left": -1, "right": 0, "dilation": 2}, r"Dilated\.left must be a whole number >= 0, got -1"),
        (Dilated, {"left": 1, "right": None, "dilation": 2}, r"Dilated\.right must be a whole number >= 0, got None"),
        (Dilated, {"left": 1, "right": 0, "dilation": 0}, r"Dilated\.dilation must be a whole number >= 1, got 0"),
        (Dilated, {"left": 1, "right": 0, "dilation": 1}, r"has no gaps: use SlidingWindow\(left, right\)"),
        (GlobalLocal, {"left": -2, "right": 0, "tokens": 1}, r"GlobalLocal\.left must be a whole number >= 0, got -2"),
        (GlobalLocal, {"left": 2, "right": "0", "tokens": 1}, r"GlobalLocal\.right must be a whole number >= 0, got '0'"),
        (GlobalLocal, {"left": 2, "right": 0, "tokens": 0}, r"GlobalLocal\.tokens must be a whole number >= 1, got 0"),
        (GlobalLocal, {"left": 2, "right": 0, "tokens": 1, "causal": 1}, r"GlobalLocal\.causal must be True or False, got 1"),
        (GlobalLocal, {"left": 2, "right": 1, "tokens": 1, "causal": True}, "nothing to the right: right must be 0, got 1"),
        (Strided, {"stride": 0}, r"Strided\.stride must be a whole number >= 1, got 0"),
        (Fixed, {"block": 0}, r"Fixed\.block must be a whole number >= 1, got 0"),
        (Fixed, {"block": 2, "columns": 0}, r"Fixed\.columns must be a whole number >= 1, got 0"),
        (Fixed, {"block": 2, "columns": 3}, r"Fixed\.columns \(3\) must not exceed Fixed\.block \(2\)"),
        (BlockSparse, {"block": 0, "layout": (("1",),)}, r"BlockSparse\.block must be a whole number >= 1, got 0"),
        (
            BlockSparse,
            {"block": 1, "layout": (("1",),), "causal": None},
            r"BlockSparse\.causal must be True or False, got None",
        ),
    ],
)
def test_patterns_that_make_no_sense(pattern: type[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        pattern(**fields)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, r"layout must be tables \(one, or one per head\) of rows, got None"),
        ((), r"layout must be tables .* of rows, got \(\)"),
        (((),), r"layout must be tables .* of rows, got \(\(\),\)"),
        ("10", r"layout must be tables .* of rows, got '10'"),
        (("10", "01"), r"layout must be tables .* of rows, got \('10', '01'\)"),
        ((1, 0), r"layout must be tables .* of rows, got \(1, 0\)"),
        (((1, 0), (0, 1)), r"layout\[0\] must be 2 rows of 0 and 1, got \(1, 0\)"),
        ((("1x", "01"),), r"layout\[0\] must be 2 rows of 0 and 1, got \('1x', '01'\)"),
        ((("10\n", "01"),), r"layout\[0\] must be 2 rows of 0 and 1"),
        ((("10", "01"), ("1",)), r"layout\[1\] must be 2 rows of 0 and 1, got \('1',\)"),
        ((("10", "011"),), r"layout\[0\] must have as many columns as rows \(2\), got a row of 3"),
        ((("10", ""),), r"layout\[0\] must have as many columns as rows \(2\), got a row of 0"),
        ((("",),), r"layout\[0\] must have as many columns as rows \(1\), got a row of 0"),
    ],
)
def test_layouts_that_make_no_sense(layout: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BlockSparse(2, layout)


def test_only_patterns_are_patterns() -> None:
    with pytest.raises(SpecError, match=r"pattern must be one of Full, Causal, PrefixLM, .*, BlockSparse, got <class"):
        check_pattern(Causal)
