"""Mixtures of kinds, in a fixed order, and trials that are remembered. No test asks which kind is faster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.benchmarking.stats import judged
from edgeattn.exams import COSINE, Budget, Exam, VectorExam
from edgeattn.exporters.quantize import candidate, exams
from edgeattn.exporters.quantize.candidate import Timed, Workshop, steps_within
from edgeattn.exporters.quantize.kinds import ORT, Kinds, Layer, kind
from edgeattn.exporters.quantize.metric import MetricExam, load_metric, measured
from edgeattn.exporters.quantize.search import _as_many, _groups, _mixture, search
from edgeattn.exporters.quantize.stage import Wish, _chosen
from edgeattn.exporters.quantize.trials import Memory, Trial, Trials, holding
from edgeattn.exporters.quantize.writers import OnnxWriter
from edgeattn.loading import open_session
from edgeattn.runtimes.base import LoadOptions, Session
from tests.exporters.quantize.small_encoder import Feeds, all_in, draw, workshop
from tests.exporters.quantize.trying import windows

INT4, INT8 = kind(ORT, "int4"), kind(ORT, "int8")
FAR = float("inf")
SEARCHED, UNSEEN = draw(10, seed=1), draw(20, seed=2)


@pytest.fixture
def shop(encoder: Path, tmp_path: Path) -> Workshop:
    return workshop(encoder, ORT, tmp_path, draw(6))


@pytest.fixture
def full(shop: Workshop) -> Iterator[Session]:
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as session:
        yield session


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Kinds]:
    """What is written from now on."""
    kept: list[Kinds] = []
    write = OnnxWriter.write

    def noted(self: OnnxWriter, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        kept.append(kinds)
        return write(self, kinds, path, weights)

    monkeypatch.setattr(OnnxWriter, "write", noted)
    return kept


def vector_exam(shop: Workshop, full: Session, samples: list[Feeds]) -> VectorExam:
    return exams.vector_exam(full, samples, exams.vector_output(shop.bundle.manifest, None))


def trials_of(shop: Workshop, full: Session, exam: Exam) -> Trials:
    return Trials(shop, full, exam, Memory(shop, exam), lambda _: None)


def mixed(shop: Workshop, full: Session, bound: float) -> Trial | None:
    """int4 where the budget allows it, int8 elsewhere."""
    trials = trials_of(shop, full, vector_exam(shop, full, SEARCHED))
    careful = trials.run(all_in(shop, "int8"), timed=False)
    return _mixture(trials, Budget(COSINE, bound), INT4, careful, FAR)


def test_a_mixture_holds_what_one_kind_misses(shop: Workshop, full: Session) -> None:
    trials = trials_of(shop, full, vector_exam(shop, full, SEARCHED))
    alone = {name: trials.run(all_in(shop, name), timed=False).scores[COSINE] for name in ("int4", "int8")}
    bound = (alone["int4"] + alone["int8"]) / 2
    found = mixed(shop, full, bound)
    assert found is not None
    assert set(found.used) == {"int4", "int8"}
    assert sum(found.used.values()) == len(shop.layers)
    assert alone["int4"] < bound <= found.scores[COSINE] <= alone["int8"]
    assert found.name == f"int4 x{found.used['int4']}, int8 x{found.used['int8']}"


def test_a_mixture_takes_more_where_more_is_allowed(shop: Workshop, full: Session) -> None:
    counts = []
    for bound in (0.995, 0.985, 0.9):
        found = mixed(shop, full, bound)
        counts.append(found.used["int4"] if found else 0)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(shop.layers)


def test_no_group_fits(shop: Workshop, full: Session) -> None:
    assert mixed(shop, full, 1.0) is None


def test_without_a_careful_kind_the_rest_stays_as_it_is(shop: Workshop, full: Session) -> None:
    trials = trials_of(shop, full, vector_exam(shop, full, SEARCHED))
    found = _mixture(trials, Budget(COSINE, 0.985), INT4, None, FAR)
    assert found is not None
    assert set(found.used) == {"int4", "fp32"}
    assert found.scores[COSINE] >= 0.985


def test_groups_are_halves_of_a_role() -> None:
    layers = {f"{role}{i}": Layer(f"layers.{i}.{role}.weight", 1) for i in range(5) for role in ("up", "down")}
    assert _groups({"e": Layer("embed.weight", 1), **layers}) == [
        ["e"],
        ["up0", "up1", "up2"],
        ["up3", "up4"],
        ["down0", "down1", "down2"],
        ["down3", "down4"],
    ]


LOSSES = {"a": 1.0, "b": 2.0, "c": 9.0, "d": 9.5, "e": 1.5, "f": 30.0, "g": 30.0}


def as_many(groups: list[list[str]], allowed: float, deadline: float = FAR) -> tuple[set[str], list[str]]:
    """What is taken where losses add up, and what was tried, in that order."""
    tried: list[str] = []

    def lost(group: Sequence[str]) -> float:
        return sum(LOSSES[name] for name in group)

    def keeps(groups: Sequence[Sequence[str]], expected: float) -> bool:
        tried.append("".join(groups[-1]))
        assert expected == sum(map(lost, groups))
        return expected <= allowed

    taken = _as_many(groups, lost, keeps, len, deadline)
    return {name for group in taken for name in group}, tried


def test_a_group_that_does_not_fit_is_tried_in_halves() -> None:
    groups = [["a", "b", "c", "d"], ["e"], ["f", "g"]]
    assert as_many(groups, 14) == ({"a", "b", "e", "c"}, ["e", "abcd", "ab", "cd", "c", "d", "fg", "f", "g"])
    assert as_many(groups, 1) == ({"a"}, ["e", "abcd", "ab", "a", "b", "cd", "c", "d", "fg", "f", "g"])
    assert as_many(groups, 100) == (set("abcdefg"), ["e", "abcd", "fg"])


def test_halving_comes_to_an_end() -> None:
    _, tried = as_many([["f"] * 64], 0)
    assert len(tried) < 2 * 6 + 2


def test_nothing_is_tried_when_time_is_over() -> None:
    assert as_many([["a"]], 100, deadline=0) == (set(), [])


def test_the_order_is_the_same_each_time(
    shop: Workshop, full: Session, written: list[Kinds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is remembered: each time has a cache of its own."""
    runs = []
    for name in ("one", "other"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        mixed(shop, full, 0.985)
        runs.append([{layer: each.name for layer, each in kinds.items()} for kinds in written])
        written.clear()
    assert runs[0] == runs[1]
    assert len(runs[0]) > len(_groups(shop.layers))


def test_a_search_goes_on_where_it_was_stopped(shop: Workshop, full: Session, written: list[Kinds]) -> None:
    first = mixed(shop, full, 0.985)
    assert written
    written.clear()
    assert mixed(shop, full, 0.985) == first
    assert written == []


def test_what_was_only_scored_is_timed_when_its_time_is_asked(shop: Workshop, full: Session, written: list[Kinds]) -> None:
    trials = trials_of(shop, full, vector_exam(shop, full, SEARCHED))
    scored, timed = (trials.run(all_in(shop, "int8"), timed=timed) for timed in (False, True))
    assert scored.time is None
    assert timed.time is not None
    assert timed.scores == scored.scores
    trials.run(all_in(shop, "int8"), timed=False)
    assert len(written) == 2


@pytest.mark.parametrize("changed", ["samples", "calibration", "bundle"])
def test_nothing_is_remembered_of_something_else(shop: Workshop, full: Session, written: list[Kinds], changed: str) -> None:
    exam = vector_exam(shop, full, SEARCHED)
    trials_of(shop, full, exam).run(all_in(shop, "int8"), timed=False)
    if changed == "samples":
        exam = vector_exam(shop, full, UNSEEN)
    if changed == "calibration":
        shop = replace(shop, calibration=draw(6, seed=7))
    if changed == "bundle":
        files = {**shop.bundle.manifest.files}
        files["weights-fp32.bin"] = replace(files["weights-fp32.bin"], sha256="0" * 64)
        shop = replace(shop, bundle=replace(shop.bundle, manifest=replace(shop.bundle.manifest, files=files)))
    trials_of(shop, full, exam).run(all_in(shop, "int8"), timed=False)
    assert len(written) == 2


def test_a_metric_is_remembered_as_long_as_it_is_the_same(
    shop: Workshop, full: Session, written: list[Kinds], tmp_path: Path
) -> None:
    """Not what was found without it, nor what another function in a file of that name said."""
    file = tmp_path / "metric.py"
    inner = vector_exam(shop, full, SEARCHED)
    trials_of(shop, full, inner).run(all_in(shop, "int8"), timed=False)
    losses = []
    for weight in (1, 1, 2):
        file.write_text(
            f"import numpy as np\nFEEDS = dict.fromkeys(['input_ids', 'attention_mask'], np.ones((1, 4), np.int64))\n"
            f"def good(run):\n    return {weight} * (1.0 - float(np.abs(run(FEEDS)['hidden']).max()))\n"
        )
        metric = load_metric(f"{file}:good")
        exam = MetricExam(inner, metric, measured(metric, full))
        losses.append(trials_of(shop, full, exam).run(all_in(shop, "int8"), timed=False).scores["drop"])
    assert len(written) == 3
    assert losses[0] == losses[1] != 0
    assert losses[2] == pytest.approx(2 * losses[0])


def test_a_damaged_memory_is_none(shop: Workshop, full: Session, written: list[Kinds], own_cache: Path) -> None:
    exam = vector_exam(shop, full, SEARCHED)
    for content in ("{", "[]", '{"a": 1}'):
        trials_of(shop, full, exam).run(all_in(shop, "int8"), timed=False)
        (file,) = own_cache.rglob("*.json")
        file.write_text(content)
    assert len(written) == 3


@pytest.mark.parametrize("capacity", [None, 1000, 388, 387, 259, 128, 44, 12])
def test_steps_are_timed_within_what_a_decoder_takes(capacity: int | None) -> None:
    prompt, tokens = steps_within(capacity)
    assert 1 <= prompt <= 256
    assert 1 <= tokens <= 12
    assert prompt + 11 * tokens <= (capacity or 388)


def test_a_decoder_is_timed_by_a_prompt_and_what_it_makes(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(decoder, ORT, tmp_path, windows(2))
    rounds = iter([[[3.0] * 4, [4.0] * 4], [[0.01] * 4, [0.03] * 4]])

    def timed(candidates: list[Callable[[], object]], *_: int, **__: int) -> list[list[float]]:
        for run in candidates:
            run()
        return next(rounds)

    monkeypatch.setattr(candidate, "interleave", timed)
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        (found,) = shop.times([full], full)
    assert found.value == pytest.approx((3 + 64 * 0.01) / (4 + 64 * 0.03))
    assert (found.prompt, found.seconds, found.verdict) == (3.0, 0.01, "faster")


def test_candidates_are_timed_beside_the_first_faster_one(
    shop: Workshop, full: Session, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ratios to it become ratios to full precision, and are remembered for that one alone."""
    beside: list[Session] = []
    ratios = iter([1.1, 0.5, 0.8, 2.5])

    def times(self: Workshop, sessions: Sequence[Session], over: Session) -> list[Timed]:
        beside.append(over)
        value = next(ratios)
        return [Timed(value, value - 0.01, value + 0.01, judged(value - 0.01, value + 0.01), seconds=value)]

    monkeypatch.setattr(Workshop, "times", times)
    exam = vector_exam(shop, full, SEARCHED)
    names = ("fp16", "int8", "int8-g128", "int4")
    trials = trials_of(shop, full, exam)
    found = [trials.run(all_in(shop, name)) for name in names]
    values = [trial.time.value for trial in found if trial.time is not None]
    assert values == pytest.approx([1.1, 0.5, 0.5 * 0.8, 0.5 * 2.5])
    assert [trial.faster for trial in found] == [False, True, True, False]
    assert [over is full for over in beside] == [True, True, False, False]
    again = trials_of(shop, full, exam)
    assert [again.run(all_in(shop, name)).time for name in names] == [trial.time for trial in found]
    ratios = iter([0.4])
    other = trials_of(shop, full, exam)
    assert [other.run(all_in(shop, name)).faster for name in ("fp16", "int8-g128")] == [False, True]  # nothing is before it now
    assert beside[-1] is full


def test_a_search_tries_every_kind(shop: Workshop, full: Session) -> None:
    trials = trials_of(shop, full, vector_exam(shop, full, SEARCHED))
    found = search(trials, Budget(COSINE, 0.99), seconds=0.0)
    assert [trial.name for trial in found] == ["int4", "int8-static", "int8-dynamic", "int8-g128", "int8", "fp16"]
    assert all(trial.time is not None for trial in found)


def test_the_fastest_are_timed_again_side_by_side(shop: Workshop, full: Session, own_cache: Path) -> None:
    """Whatever is remembered of them, and come before what only claims to be faster."""
    exam, budget = vector_exam(shop, full, SEARCHED), Budget(COSINE, -1.0)
    search(trials_of(shop, full, exam), budget, seconds=FAR)
    (file,) = own_cache.rglob("*.json")
    known = json.loads(file.read_text())
    for place, trial in enumerate(known.values()):
        trial["timed"] |= {"value": 0.9 - 0.1 * place, "seconds": -1.0}  # the last tried would be the fastest
    file.write_text(json.dumps(known))
    found = search(trials_of(shop, full, exam), budget, seconds=FAR)
    assert [trial.name for trial in found] == ["int4", "int8-static", "int8-dynamic", "int8-g128", "int8", "fp16"]
    again = [trial.name for trial in found if trial.time is not None and trial.time.seconds > 0]
    assert again == ["int8-g128", "int8", "fp16"]
    assert {trial.name for trial in holding(found, budget)[:3]} == set(again)


def test_what_fails_on_unseen_samples_is_not_chosen(shop: Workshop, full: Session) -> None:
    """Their truth is turned round here, so that everything is as far from it as can be."""
    trial = trials_of(shop, full, vector_exam(shop, full, SEARCHED)).run(all_in(shop, "int8"))
    exam = vector_exam(shop, full, UNSEEN)
    wish = Wish(("auto",), Budget(COSINE, 0.9), slower=True)
    assert _chosen(shop, [trial], exam, wish)[0] is trial
    chosen, scores, reason = _chosen(shop, [trial], replace(exam, truth=[-array for array in exam.truth]), wish)
    assert chosen is None
    assert scores[COSINE] < -0.9
    assert "on inputs that the search had not seen int8 has cosine -0.99" in reason
