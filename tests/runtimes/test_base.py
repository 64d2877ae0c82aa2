"""The checks that the base does once for every runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from edgeattn.errors import FeedError, UsageError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import (
    Effective,
    LoadOptions,
    _cgroup_quota,
    default_threads,
    resolve_threads,
    tensor_info,
    validate_feeds,
    wrap_failure,
)

Dims = tuple[int | str, ...]
DTYPES = ("float16", "float32", "float64", "int32", "int64", "bool")


@st.composite
def models(draw: st.DrawFn) -> tuple[list[TensorInfo], dict[str, int]]:
    """Inputs of any types and dims, and a size for each dynamic dimension."""
    dims = st.lists(st.one_of(st.integers(0, 4), st.sampled_from("BST")), max_size=4)
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1, max_size=4))
    infos = [TensorInfo(name, draw(st.sampled_from(DTYPES)), tuple(draw(dims))) for name in names]
    return infos, {symbol: draw(st.integers(1, 5)) for symbol in "BST"}


def shape(dims: Dims, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)


@given(models(), st.data())
def test_fitting_feeds_pass_unchanged(model: tuple[list[TensorInfo], dict[str, int]], data: st.DataObject) -> None:
    infos, sizes = model
    feeds = {}
    for info in infos:
        array = data.draw(
            stn.arrays(info.dtype, shape(info.dims, sizes), elements={"allow_nan": False} if "f" in info.dtype else None)
        )
        feeds[info.name] = array if data.draw(st.booleans()) else array.T.copy().T
    checked = validate_feeds(infos, feeds)
    assert list(checked) == [info.name for info in infos]
    for name, array in checked.items():
        assert array.flags["C_CONTIGUOUS"]
        assert (array.shape, array.dtype) == (feeds[name].shape, feeds[name].dtype)
        np.testing.assert_array_equal(array, feeds[name])


@given(models(), st.data())
def test_one_wrong_size_is_always_found(model: tuple[list[TensorInfo], dict[str, int]], data: st.DataObject) -> None:
    """Unless the axis is the only one of its name, so that any size is right."""
    infos, sizes = model
    axes = [(info, axis) for info in infos for axis in range(len(info.dims))]
    uses = [dim for info in infos for dim in info.dims]
    axes = [(info, axis) for info, axis in axes if isinstance(info.dims[axis], int) or uses.count(info.dims[axis]) > 1]
    if not axes:
        return
    feeds = {info.name: np.zeros(shape(info.dims, sizes), info.dtype) for info in infos}
    info, axis = data.draw(st.sampled_from(axes))
    wrong = list(feeds[info.name].shape)
    wrong[axis] += 1
    feeds[info.name] = np.zeros(wrong, info.dtype)
    with pytest.raises(FeedError):
        validate_feeds(infos, feeds)


def test_contiguous_feeds_are_not_copied() -> None:
    x = np.zeros((2, 3), np.float32)
    assert validate_feeds([TensorInfo("x", "float32", ("B", 3))], {"x": x})["x"] is x


def test_sizes_agree_within_one_input() -> None:
    with pytest.raises(FeedError, match="input 'x': S is 3, but 2 in input 'x'"):
        validate_feeds([TensorInfo("x", "float32", ("S", "S"))], {"x": np.zeros((2, 3), np.float32)})


def test_scalars_keep_their_rank() -> None:
    info = TensorInfo("x", "float32", ())
    assert validate_feeds([info], {"x": np.float32(2)})["x"].shape == ()  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [np.float32(np.nan), np.array([1, np.nan], np.float32)])
def test_nan_is_refused(value: Any) -> None:
    with pytest.raises(FeedError, match="holds NaN"):
        validate_feeds([TensorInfo("x", "float32", ("N",) * np.ndim(value))], {"x": value})


def test_unnamed_dimensions_differ_from_each_other() -> None:
    assert tensor_info("x", "float32", [None, 3, "B", "", 0]).dims == ("x_0", 3, "B", "x_3", 0)


def test_default_threads_fit_this_process() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
    assert resolve_threads(LoadOptions()) == default_threads()
    assert resolve_threads(LoadOptions(threads=7)) == 7


@pytest.mark.parametrize("threads", [0, -3, 1.0, True, "2"])
def test_bad_threads(threads: Any) -> None:
    with pytest.raises(UsageError, match=f"threads must be a whole number >= 1, got {threads!r}"):
        resolve_threads(LoadOptions(threads=threads))


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("", None), ("1 0", None)],
)
def test_quota_of_cgroup_version_2(tmp_path: Path, text: str, quota: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert _cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("text", "quota"), [("-1", None), ("300000", 3), ("1000", 1)])
def test_quota_of_cgroup_version_1(tmp_path: Path, text: str, quota: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(text + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _cgroup_quota(tmp_path) == quota


def test_no_cgroup(tmp_path: Path) -> None:
    assert _cgroup_quota(tmp_path) is None


def test_failure_keeps_the_first_line() -> None:
    assert str(wrap_failure("r", "run", RuntimeError("\n  why \nmore"))) == "r failed to run: why"
    assert str(wrap_failure("r", "run", KeyError())) == "r failed to run: KeyError"


@pytest.mark.parametrize(("threads", "count"), [(1, "1 thread,"), (2, "2 threads,")])
def test_summary(threads: int, count: str) -> None:
    assert Effective("r", "1.0", "cpu", threads, "fp32", "fp16").summary() == f"r 1.0 cpu, {count} fp32 (KV fp16)"
