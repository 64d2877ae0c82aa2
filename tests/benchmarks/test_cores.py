"""Rounds of a benchmark are told apart by how far its cores were from each other."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def cores() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield import_module("cores")
    finally:
        sys.path.remove(folder)


def test_rounds_are_told_apart_by_the_quickest_of_all_cases(cores: ModuleType) -> None:
    near, far = 150e-9, 440e-9
    rounds = {"step": [near] * 5 + [math.nan] + [far] * 6, "prompt": [far] * 7, "rare": [near] * 4 + [far]}
    assert cores.by_distance(rounds) == {
        "cores near each other, 150 ns there and back": {"step": [0, 1, 2, 3, 4]},
        "cores far from each other, 440 ns there and back": {"step": [6, 7, 8, 9, 10, 11], "prompt": [0, 1, 2, 3, 4, 5, 6]},
    }


def test_rounds_that_are_all_alike_are_not_called_near(cores: ModuleType) -> None:
    assert cores.by_distance({"step": [440e-9] * 5}) == {"cores, 440 ns there and back": {"step": [0, 1, 2, 3, 4]}}
    assert cores.by_distance({"step": [math.nan] * 2}) == {"all rounds": {"step": [0, 1]}}


def test_a_round_lies_between_two_looks(cores: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with cores.Cores() as watched:
        watched.look()
        watched.look()
        (trip,) = watched.rounds()
        assert trip > 0 or math.isnan(trip)
        assert watched.rounds() == []
        monkeypatch.setattr(cores, "default_threads", lambda: 1)
        watched.look()
        watched.look()
        assert math.isnan(watched.rounds()[0])
        watched._looks = [1.0, 1.6, 3.0]
        assert watched.rounds()[0] == pytest.approx(1.3)
