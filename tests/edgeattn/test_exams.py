"""Scores against numbers worked out by hand, budgets, and exams in bundles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeattn.bundle import Bundle, seal
from edgeattn.errors import BundleError
from edgeattn.exams import METRICS, Budget, TextExam, VectorExam, read_exam, write_exam
from edgeattn.manifest import GoldenCase, Manifest, OutputInfo, TensorInfo
from edgeattn.runtimes.base import Effective, Session
from edgeattn.tensors import read_tensors, write_tensors

Arrays = dict[str, NDArray[Any]]
INPUTS = (TensorInfo("x", "float32", ("batch", 2)),)
OUTPUTS = (OutputInfo("other", "float32", ("batch", 1)), OutputInfo("y", "float32", ("batch", 2)))


class Turned(Session):
    """y is x turned by `angle`."""

    def __init__(self, angle: float) -> None:
        super().__init__(INPUTS, OUTPUTS, Effective("numpy", "0", "cpu", 1, "fp32", "fp32"))
        c, s = math.cos(angle), math.sin(angle)
        self._matrix = np.array([[c, s], [-s, c]], dtype=np.float32)

    def _run(self, feeds: Arrays) -> Arrays:
        return {"other": feeds["x"][:, :1], "y": feeds["x"] @ self._matrix}


def vectors() -> VectorExam:
    """Against the model that turns nothing."""
    rows = [[3.0, 0.0], [0.0, 5.0], [0.0, 1.0], [2.0, 0.0]]
    feeds = [{"x": np.array([row], dtype=np.float32)} for row in rows]
    return VectorExam("y", feeds, [feed["x"] for feed in feeds])


def bundle_of(folder: Path, exam: GoldenCase) -> Bundle:
    """With an exam and nothing else."""
    manifest = Manifest("0", {}, INPUTS, OUTPUTS, (), (), (), (), (), {}, exam=exam)
    return Bundle(folder, seal(folder, manifest))


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.0])
def test_cosine_of_vectors(angle: float) -> None:
    """A turn by 1.0 puts the largest element of half the vectors at the other place; one by 0.5 does not."""
    scores = vectors().score(Turned(angle))
    assert scores["cosine"] == pytest.approx(math.cos(angle), abs=1e-6)
    assert scores["least_cosine"] == pytest.approx(math.cos(angle), abs=1e-6)
    assert scores["top1"] == (0.5 if angle == 1.0 else 1.0)


def test_the_least_is_of_one_vector_and_the_mean_of_all() -> None:
    exam = vectors()
    half = math.sqrt(0.5)
    turned = [*exam.truth[:3], np.array([[half, half]], dtype=np.float32)]
    scores = replace(exam, truth=turned).score(Turned(0.0))
    assert scores["least_cosine"] == pytest.approx(half, abs=1e-6)
    assert scores["cosine"] == pytest.approx((3 + half) / 4, abs=1e-6)


def test_a_vector_of_zeros_has_no_direction() -> None:
    exam = VectorExam("y", [{"x": np.ones((1, 2), dtype=np.float32)}], [np.zeros((1, 2), dtype=np.float32)])
    assert exam.score(Turned(0.0))["cosine"] == 0.0


@pytest.mark.parametrize("metric", list(METRICS))
def test_a_budget_of_each_metric(metric: str) -> None:
    more = METRICS[metric][1] > 0
    budget = Budget(metric, 0.5)
    assert budget.holds({metric: 0.5})
    assert budget.holds({metric: 0.75}) is more
    assert budget.holds({metric: 0.25}) is not more
    assert budget.miss({metric: 0.25}) == pytest.approx(0.25 if more else -0.25)
    for bad in ({metric: math.nan}, {metric: math.inf}, {metric: -math.inf}, {}):
        assert not budget.holds(bad)
        assert budget.miss(bad) == math.inf
    assert str(budget) == f"{metric} {'at least' if more else 'at most'} 0.5"


def test_vectors_come_back_from_a_bundle(tmp_path: Path) -> None:
    exam = vectors()
    case = write_exam(tmp_path, exam, 1)
    found = read_exam(bundle_of(tmp_path, case))
    assert isinstance(found, VectorExam)
    assert found.output == "y"
    assert found.samples == 4
    assert found.score(Turned(0.5)) == exam.score(Turned(0.5))


def test_a_text_comes_back_from_a_bundle(tmp_path: Path) -> None:
    exam = TextExam(np.arange(12).reshape(2, 6), np.full((2, 5), 0.5, np.float32), np.ones((2, 5), np.int64))
    found = read_exam(bundle_of(tmp_path, write_exam(tmp_path, exam, 0)))
    assert isinstance(found, TextExam)
    assert found.samples == 10
    for got, expected in zip((found.tokens, found.nll, found.top), (exam.tokens, exam.nll, exam.top), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_bundle_keeps_few_samples(tmp_path: Path) -> None:
    """64, and of large outputs at most 2 MB, but one at least."""
    exam = vectors()
    many = VectorExam("y", list(exam.feeds) * 20, list(exam.truth) * 20)
    assert write_exam(tmp_path, many, 1).sizes["samples"] == 64
    large = [np.zeros((1, 1 << 18), dtype=np.float32)] * 4
    assert replace(exam, truth=large).fitting() == 2
    assert replace(exam, truth=[np.zeros((1, 1 << 20), dtype=np.float32)] * 4).fitting() == 1


def _damaged(folder: Path, case: GoldenCase, changed: Mapping[str, NDArray[Any] | None]) -> None:
    tensors = {**read_tensors(folder / case.file), **changed}
    write_tensors(folder / case.file, {name: array for name, array in tensors.items() if array is not None})


@pytest.mark.parametrize(
    "changed",
    [
        {"out.2.y": None},
        {"in.0.x": None},
        {"out.2.y": np.zeros((1, 3), np.float32)},
        {"out.2.y": np.zeros((2, 2), np.float32)},
        {"out.2.y": np.zeros((), np.float32)},
        {"out.2.y": np.zeros((1, 0), np.float32)},
        {"in.0.x": np.zeros((1, 2, 1), np.float32)},
        {"in.0.x": np.zeros((1, 2), np.int64)},
    ],
)
def test_damaged_vectors(tmp_path: Path, changed: dict[str, NDArray[Any] | None]) -> None:
    case = write_exam(tmp_path, vectors(), 1)
    _damaged(tmp_path, case, changed)
    with pytest.raises(BundleError, match="export the model again"):
        read_exam(bundle_of(tmp_path, case))


@pytest.mark.parametrize("sizes", [{"output": 2}, {"output": -1}, {"samples": 0}, {"samples": 5}])
def test_damaged_sizes(tmp_path: Path, sizes: dict[str, int]) -> None:
    case = write_exam(tmp_path, vectors(), 1)
    with pytest.raises(BundleError, match="export the model again"):
        read_exam(bundle_of(tmp_path, replace(case, sizes={**case.sizes, **sizes})))


@pytest.mark.parametrize(
    "changed",
    [
        {"out.top": None},
        {"out.nll": np.zeros((2, 6), np.float32), "out.top": np.zeros((2, 6), np.int64)},
        {"out.top": np.zeros((1, 5), np.int64)},
        {"in.input_ids": np.zeros(12, np.int64)},
        {"in.input_ids": np.zeros((2, 6), np.float32)},
        {
            "in.input_ids": np.zeros((0, 6), np.int64),
            "out.nll": np.zeros((0, 5), np.float32),
            "out.top": np.zeros((0, 5), np.int64),
        },
        {
            "in.input_ids": np.zeros((2, 1), np.int64),
            "out.nll": np.zeros((2, 0), np.float32),
            "out.top": np.zeros((2, 0), np.int64),
        },
    ],
)
def test_a_damaged_text(tmp_path: Path, changed: dict[str, NDArray[Any] | None]) -> None:
    exam = TextExam(np.arange(12).reshape(2, 6), np.full((2, 5), 0.5, np.float32), np.ones((2, 5), np.int64))
    case = write_exam(tmp_path, exam, 0)
    _damaged(tmp_path, case, changed)
    with pytest.raises(BundleError):
        read_exam(bundle_of(tmp_path, case))
