"""The stopwatch: its statistics, its order, and that it is silent about what failed parity."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeattn
from edgeattn.benchmarking.feeds import make_feeds, resolve_sizes
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import open_bundle
from edgeattn.errors import UsageError

Make = dict[str, Callable[..., Any]]


def test_summary_is_in_milliseconds() -> None:
    summary = summarize([0.001 * n for n in range(1, 102)])
    assert summary.median_ms == pytest.approx(51)
    assert summary.p90_ms == pytest.approx(91)
    assert summary.p99_ms == pytest.approx(100)
    assert summary.runs == 101
    with pytest.raises(ValueError, match="no timing"):
        summarize([])


def _timings(seed: int, mean: float, rounds: int = 60) -> list[float]:
    return list(mean * np.random.default_rng(seed).lognormal(0, 0.05, rounds))


def test_verdicts() -> None:
    assert compare_timings(_timings(1, 0.8), _timings(2, 1)).verdict == "faster"
    assert compare_timings(_timings(1, 1.2), _timings(2, 1)).verdict == "slower"
    same = compare_timings(_timings(1, 1), _timings(2, 1))
    assert same.verdict == "inconclusive"
    assert same.low < 1 < same.high


def test_a_slow_spell_that_hits_both_is_no_difference() -> None:
    """Resampling the two apart would draw the spell into one and not the other."""
    weather = np.where(np.arange(40) % 2, 1.0, 9.0)
    ratio = compare_timings(list(weather * 1.1), list(weather))
    assert ratio.low == pytest.approx(1.1)
    assert ratio.high == pytest.approx(1.1)
    assert ratio.verdict == "slower"


def test_timings_of_different_rounds_do_not_compare() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        compare_timings([1, 2], [1, 2, 3])


def test_candidates_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    seconds = interleave([lambda: order.append("a"), lambda: order.append("b")], rounds=3, warmup=2)
    rounds = ["".join(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert len(rounds) == 5
    assert set(rounds) == {"ab", "ba"}  # each once in a round, and none always behind the same other
    assert [len(times) for times in seconds] == [3, 3]
    with pytest.raises(ValueError, match="round"):
        interleave([], rounds=0)


def test_what_is_done_between_rounds_leaves_out_the_warm_up() -> None:
    order: list[str] = []
    interleave([lambda: order.append("a")], rounds=2, warmup=1, between=lambda: order.append("|"))
    assert "".join(order) == "a|a|a|"


def test_a_turn_is_several_calls_and_their_mean_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = itertools.count(step=6.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))  # 6 s pass from one reading to the next
    seconds = interleave([lambda: order.append("a"), lambda: order.append("b")], rounds=2, warmup=1, in_a_row=3)
    assert {"".join(order[i : i + 6]) for i in range(0, 18, 6)} <= {"aaabbb", "bbbaaa"}
    assert seconds == [[2.0, 2.0], [2.0, 2.0]]
    with pytest.raises(ValueError, match="1 call"):
        interleave([], rounds=1, in_a_row=0)


def test_sizes_and_feeds(tiny: Path) -> None:
    bundle = open_bundle(tiny)
    assert resolve_sizes(bundle, None) == {"batch": 1, "sequence": 128}
    assert resolve_sizes(bundle, {"batch": 4}) == {"batch": 4, "sequence": 128}
    feeds = make_feeds(bundle, {"batch": 5, "sequence": 40})
    assert feeds["input_ids"].shape == (5, 40)
    assert 0 <= feeds["input_ids"].min() <= feeds["input_ids"].max() < 50  # within the vocabulary
    assert feeds["attention_mask"].all()  # nothing is padding: the whole length is work


@pytest.mark.parametrize("sizes", [{"sequenc": 3}, {"sequence": 513}, {"batch": 0}])
def test_sizes_that_cannot_be(tiny: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"sequenc|512|batch"):
        resolve_sizes(open_bundle(tiny), sizes)


def test_bench_of_a_sound_bundle(tiny: Path) -> None:
    report = edgeattn.bench(tiny, sizes={"sequence": 16}, repeats=5, warmup=1)
    assert report.passed
    assert report.sizes == {"batch": 1, "sequence": 16}
    assert [row.target for row in report.rows] == ["onnxruntime:cpu", "openvino:cpu"]
    for row in report.rows:
        assert row.latency is not None
        assert row.latency.runs == 5
        assert row.fresh is not None
        assert row.fresh.load_s > 0
        assert row.effective
    assert report.rows[0].ratio is None
    assert report.rows[1].ratio is not None
    assert report.machine["cpu"]
    assert "numpy" in report.packages


def test_no_latency_for_what_failed_parity(tiny: Path, make: Make) -> None:
    make["scale_weight"](tiny, 10)
    make["reseal"](tiny)
    report = edgeattn.bench(tiny, repeats=2, warmup=0)
    assert report.exit_code == 1
    assert all(row.latency is None and row.fresh is None and row.ratio is None for row in report.rows)


def test_compare_times_the_sound_one_only(tiny: Path, tmp_path: Path, make: Make) -> None:
    bad = make["bundle"](tmp_path / "bad", masked=False)
    report = edgeattn.compare([bad, tiny], ["onnxruntime:cpu"], {"sequence": 8}, repeats=3, warmup=0)
    assert [(row.bundle, row.latency is not None) for row in report.rows] == [("bad", False), ("tiny", True)]
    assert report.exit_code == 1
    assert not report.passed


def test_compare_needs_a_bundle() -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        edgeattn.compare([])
