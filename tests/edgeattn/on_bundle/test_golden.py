"""Golden cases: what is written is what is read, and sampling a large output hides no kind of fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeattn.bundle import open_bundle, seal
from edgeattn.errors import BundleError
from edgeattn.golden import LIMIT, Golden, compare_case, read_case, stride_for, write_case
from edgeattn.manifest import Manifest, OutputInfo, TensorInfo
from edgeattn.tensors import read_tensors, write_tensors

Array = NDArray[Any]

SHAPE = (3, 64, 384)
PADDING = TensorInfo("mask", "int64", ("batch", "sequence"))
OUTPUTS = (OutputInfo("y", "float32", ("batch", "sequence", 384)), OutputInfo("small", "float32", ("batch", 2)))


@pytest.fixture
def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    mask = np.ones(SHAPE[:2], np.int64)
    mask[-1, 40:] = 0
    return {
        "mask": mask, "y": rng.standard_normal(SHAPE).astype(np.float32), "small": rng.standard_normal((3, 2)).astype(np.float32),
    }  # fmt: skip


@pytest.fixture
def golden(tmp_path: Path, arrays: dict[str, Array]) -> Golden:
    """A case with one output that is sampled and one that is not, written and read back."""
    outputs = {name: arrays[name] for name in ("y", "small")}
    sizes = {"batch": 3, "sequence": 64}
    case = write_case(tmp_path, "big", sizes, {"mask": arrays["mask"]}, outputs)
    manifest = Manifest("0", {}, (PADDING,), OUTPUTS, (), (), (), (case,), (), {}, padding="mask")
    seal(tmp_path, manifest)
    return read_case(open_bundle(tmp_path), case)


def _verdicts(golden: Golden, arrays: dict[str, Array], **changed: Array) -> list[bool]:
    got = {name: changed.get(name, arrays[name]) for name in ("y", "small")}
    return [comparison.passed for comparison in compare_case(golden, got, OUTPUTS, PADDING)]


def test_a_case_is_read_as_it_was_written(golden: Golden, arrays: dict[str, Array]) -> None:
    assert golden.name == "big"
    assert golden.sizes == {"batch": 3, "sequence": 64}
    assert golden.inputs["mask"].tolist() == arrays["mask"].tolist()
    assert golden.outputs["small"].tolist() == arrays["small"].tolist()
    assert golden.inputs["mask"].flags.writeable
    assert list(golden.strides) == ["y"]
    assert golden.outputs["y"].size <= LIMIT
    assert _verdicts(golden, arrays) == [True, True]


def test_no_column_escapes_sampling(golden: Golden, arrays: dict[str, Array]) -> None:
    """A stride that shares a factor with the width would look at the same columns in every row."""
    for column in range(0, SHAPE[-1], 7):
        wrong = arrays["y"].copy()
        wrong[..., column] += 0.01
        assert _verdicts(golden, arrays, y=wrong) == [False, True], column


def test_no_row_escapes_sampling(golden: Golden, arrays: dict[str, Array]) -> None:
    for batch, row in [(0, 0), (1, 63), (2, 39)]:
        wrong = arrays["y"].copy()
        wrong[batch, row] += 0.01
        assert _verdicts(golden, arrays, y=wrong) == [False, True], (batch, row)


def test_padding_is_left_out_of_a_sample_too(golden: Golden, arrays: dict[str, Array]) -> None:
    padded = arrays["y"].copy()
    padded[-1, 40:] = 1e6
    assert _verdicts(golden, arrays, y=padded) == [True, True]


def test_another_shape_of_a_sampled_output_fails(golden: Golden, arrays: dict[str, Array]) -> None:
    assert _verdicts(golden, arrays, y=arrays["y"].reshape(3, 384, 64)) == [False, True]
    assert _verdicts(golden, arrays, y=arrays["y"].reshape(-1)[:: golden.strides["y"]]) == [False, True]
    got = {"small": arrays["small"]}
    assert [c.passed for c in compare_case(golden, got, OUTPUTS, PADDING)] == [False, True]


@pytest.mark.parametrize("shape", [(1, 512, 384), (8, 512, 30522), (32769,), (2, 40000, 1), (1, 3, 5, 7, 11, 13, 17)])
def test_strides(shape: tuple[int, ...]) -> None:
    stride = stride_for(shape)
    assert math.ceil(math.prod(shape) / stride) <= LIMIT
    assert math.gcd(stride, shape[-1]) == 1


def _rewrite(tiny: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> Path:
    file = tiny / "golden" / "b1-s7.safetensors"
    write_tensors(file, change(read_tensors(file)))
    return file


def test_a_case_without_an_output_is_refused(tiny: Path, make: dict[str, Callable[..., Any]]) -> None:
    """Else an output could be spared its comparison by leaving it out of the file."""
    _rewrite(tiny, lambda tensors: {name: array for name, array in tensors.items() if name != "out.sentence_embedding"})
    make["reseal"](tiny)
    bundle = open_bundle(tiny)
    with pytest.raises(BundleError, match=r"out\.sentence_embedding"):
        read_case(bundle, bundle.manifest.golden[1])


@pytest.mark.parametrize("stride", [0, -1, 3, 10**9])
def test_a_stride_that_does_not_fit_is_refused(tiny: Path, make: dict[str, Callable[..., Any]], stride: int) -> None:
    def with_shape(tensors: dict[str, Array]) -> dict[str, Array]:
        return {**tensors, "shape.last_hidden_state": np.array([1, 7, 8])}

    _rewrite(tiny, with_shape)
    case = replace(make["manifest"](tiny).golden[1], strides={"last_hidden_state": stride})
    make["reseal"](tiny, golden=(case,))
    with pytest.raises(BundleError, match="stride"):
        read_case(open_bundle(tiny), case)
