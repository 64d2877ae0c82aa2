"""Probes: a right form passes on every runtime, and each known way to get attention wrong does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.errors import RuntimeMissingError
from edgeattn.probe import CROSS, GRID, environment, run_probe, sizes_for
from edgeattn.spec import BlockSparse, Causal, SlidingWindow, SoftmaxAttention

Make = dict[str, Callable[..., Any]]

RUNTIMES = ("onnxruntime", "openvino")
PADDED = SoftmaxAttention(2, 2, 16, value_head_dim=8, mask="key_padding")
CAUSAL = SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=Causal())
PATTERN = np.ones(1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("spec", "pattern"), [(PADDED, None), (CAUSAL, PATTERN)], ids=["padded", "causal"])
def test_a_right_form_passes(tmp_path: Path, make: Make, runtime: str, spec: SoftmaxAttention, pattern: Any) -> None:
    make["probe"](tmp_path / "p.onnx", spec, pattern=pattern)
    result = run_probe(runtime, "cpu", tmp_path / "p.onnx", spec)
    assert result.passed, result.reason
    assert 0 < result.max_abs < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_penalty_too_small_to_hide_a_key_fails(tmp_path: Path, make: Make, runtime: str) -> None:
    """-10000 instead of minus infinity: right for every ordinary score, and wrong as soon as one is large."""
    make["probe"](tmp_path / "p.onnx", PADDED, "add")
    result = run_probe(runtime, "cpu", tmp_path / "p.onnx", PADDED)
    assert not result.passed
    assert "far above" in result.reason


def test_a_penalty_on_a_pattern_fails_too(tmp_path: Path, make: Make) -> None:
    spec = SoftmaxAttention(2, 2, 16, pattern=Causal())
    make["probe"](tmp_path / "p.onnx", spec, "add", pattern=PATTERN)
    result = run_probe("onnxruntime", "cpu", tmp_path / "p.onnx", spec)
    assert not result.passed
    assert "later keys far above earlier ones" in result.reason


@pytest.mark.parametrize(
    ("claimed", "pattern"),
    [
        (CAUSAL, None),  # the causal pattern left out
        (PADDED, PATTERN),  # one too many
        (SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=SlidingWindow(3, 0)), PATTERN),  # its window ignored
        (SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=Causal("lower_right")), PATTERN),  # S != T only
        (SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=Causal(), scale=0.3), PATTERN),  # another scale
        (SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=Causal(), softcap=5.0), PATTERN),  # no softcap
    ],
)
def test_a_form_that_computes_something_else_fails(tmp_path: Path, make: Make, claimed: SoftmaxAttention, pattern: Any) -> None:
    plain = SoftmaxAttention(2, 2, 16, value_head_dim=claimed.value_head_dim, mask="key_padding")
    make["probe"](tmp_path / "p.onnx", plain, pattern=pattern)
    result = run_probe("onnxruntime", "cpu", tmp_path / "p.onnx", claimed)
    assert not result.passed
    assert "wrong values" in result.reason


def test_a_square_form_is_not_asked_for_other_sizes(tmp_path: Path, make: Make) -> None:
    """With S == T both alignments are the same pattern."""
    spec = SoftmaxAttention(2, 2, 16, mask="key_padding", pattern=Causal("lower_right"))
    make["probe"](tmp_path / "p.onnx", spec, pattern=PATTERN)
    assert run_probe("onnxruntime", "cpu", tmp_path / "p.onnx", spec, square=True).passed


def test_a_form_the_runtime_refuses_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(b"\x08\x0a")
    result = run_probe("onnxruntime", "cpu", tmp_path / "p.onnx", PADDED)
    assert not result.passed
    assert "onnxruntime failed to load" in result.reason


def test_no_size_is_no_proof(tmp_path: Path, make: Make) -> None:
    make["probe"](tmp_path / "p.onnx", PADDED)
    assert not run_probe("onnxruntime", "cpu", tmp_path / "p.onnx", PADDED, sizes=()).passed


def test_a_missing_device_is_not_a_failed_probe(tmp_path: Path, make: Make) -> None:
    """It says nothing about the form, and must not be remembered as if it did."""
    make["probe"](tmp_path / "p.onnx", PADDED)
    with pytest.raises(RuntimeMissingError):
        run_probe("onnxruntime", "qnn", tmp_path / "p.onnx", PADDED)


def test_the_grid_crosses_kernel_thresholds_in_both_lengths() -> None:
    keys = [size[2] for size in GRID]
    for threshold in (8, 64, 128, 256, 512):
        assert min(keys) < threshold < max(keys)
    assert any(size[0] > 1 for size in GRID)
    assert {s < t for _, s, t in CROSS} == {True, False}


def test_sizes_follow_what_a_spec_allows() -> None:
    assert sizes_for(PADDED, square=False) == (*GRID, *CROSS)
    assert sizes_for(PADDED, square=True) == GRID
    assert sizes_for(SoftmaxAttention(2, 2, 16, mask="document"), square=False) == GRID
    layout = SoftmaxAttention(2, 2, 16, pattern=BlockSparse(32, (("10", "11"),)))
    sizes = sizes_for(layout, square=False)
    assert max(max(size[1:]) for size in sizes) == 64
    assert (1, 64, 64) in sizes  # the last position that the layout describes
    assert (2, 65, 33) not in sizes
    assert any(queries != keys for _, queries, keys in sizes)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_environment_names_version_and_processor(runtime: str) -> None:
    here = environment(runtime, "cpu")
    assert set(here) == {"runtime_version", "cpu"}
    assert all(here.values())
    assert environment(runtime, "auto")["cpu"] != here["cpu"]
