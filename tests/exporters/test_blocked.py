"""Sliding windows in blocks: right at every ratio of window to block, and never holding S x S."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.blocked import BLOCK, BlockedWindow
from edgeattn.exporters.lowerings.defaults import SHORT
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.naive import softmax_attention
from edgeattn.runtimes import registry
from edgeattn.spec import AttentionSpec, SlidingWindow, SoftmaxAttention

RUNTIMES = ("onnxruntime", "openvino")
specs = st.builds(
    SoftmaxAttention,
    q_heads=st.just(4),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.just(8),
    value_head_dim=st.sampled_from([8, 5]),
    pattern=st.builds(SlidingWindow, left=st.integers(0, 3 * BLOCK), right=st.integers(0, 2 * BLOCK)),
    softcap=st.sampled_from([None, 5.0]),
    mask=st.sampled_from(["none", "key_padding"]),
)


@given(specs, st.lists(st.integers(1, 4 * BLOCK + 1), min_size=2, max_size=2), st.integers(1, 3))
def test_equals_the_formula_at_any_length(spec: AttentionSpec, lengths: list[int], batch: int) -> None:
    """Two lengths in one session: a form that kept anything of the first would fail on the second."""
    session = _session(spec)
    for length in lengths:
        rng = np.random.default_rng(length)
        feeds: dict[str, NDArray[Any]] = {
            "q": 3 * rng.standard_normal((batch, 4, length, 8)).astype(np.float32),
            "k": rng.standard_normal((batch, spec.kv_heads, length, 8)).astype(np.float32),
            "v": rng.standard_normal((batch, spec.kv_heads, length, spec.value_head_dim)).astype(np.float32),
        }
        if spec.mask == "key_padding":
            feeds["mask"] = rng.random((batch, length)) < 0.7
            feeds["mask"][-1, : length // 2] = False
        (got,) = session.run(None, feeds)
        np.testing.assert_allclose(got, softmax_attention(**feeds, spec=spec), rtol=0, atol=2e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("mask", ["none", "key_padding"])
def test_is_chosen_for_long_windows_and_proven(runtime: str, mask: str, tmp_path: Path) -> None:
    spec = SoftmaxAttention(4, 2, 8, pattern=SlidingWindow(63, 0), mask=mask)  # type: ignore[arg-type]
    prover = Prover(tmp_path)
    engine = registry.get(runtime)
    assert choose(Core(spec, square=True), engine, "cpu", prover).lowering.name == "blocked"
    short = Core(spec, square=True, max_keys=SHORT)
    assert choose(short, engine, "cpu", prover).lowering.name != "blocked"


def test_no_value_grows_with_the_square_of_the_length() -> None:
    """Every intermediate value, as onnx.reference makes it."""
    spec = SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(63, 0))
    evaluator = ReferenceEvaluator(ir.to_proto(probe_model(BlockedWindow(), Core(spec, square=True))))
    largest = {}
    for length in (1024, 2048):
        rows = np.ones((1, 2, length, 8), dtype=np.float32)
        values = evaluator.run(None, {"q": rows, "k": rows, "v": rows}, intermediate=True)
        largest[length] = max(np.size(value) for value in values.values())
        assert largest[length] <= BlockedWindow().scratch(spec, 1, length, length) < 2 * length * length / 2
    assert largest[2048] == 2 * largest[1024]


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (Core(SoftmaxAttention(2, 2, 8), square=True), "sliding windows"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(None, 3)), square=True), "no limit on one side"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0))), "length are equal"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0), bias=True), square=True), "no bias"),
    ],
)
def test_refusals(core: Core, reason: str) -> None:
    assert reason in (BlockedWindow().accepts(core) or "")


def _session(spec: AttentionSpec) -> onnxruntime.InferenceSession:
    model = probe_model(BlockedWindow(), Core(spec, square=True))
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
