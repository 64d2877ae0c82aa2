"""Causal attention in slices: right at every length, also below the number of slices, and never holding S x S."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.sliced import SLICES, Sliced, SlicedAttention
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.naive import softmax_attention
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import AttentionSpec, Causal, MaskKind, SlidingWindow, SoftmaxAttention
from tests.exporters.shapes import largest_tensor

RUNTIMES = ("onnxruntime", "openvino")
FORMS = (Sliced(), SlicedAttention())
NAMES = [form.name for form in FORMS]
LENGTHS = {
    "onnxruntime": (1, 7, SLICES - 1, SLICES, SLICES + 1, 2 * SLICES - 1, 333, 1024),
    "openvino": (1, 7, SLICES + 1),  # it compiles its kernels anew for each slice of each length
}
specs = st.builds(
    SoftmaxAttention,
    q_heads=st.just(4),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.just(8),
    value_head_dim=st.sampled_from([8, 5]),
    pattern=st.builds(Causal, alignment=st.sampled_from(["upper_left", "lower_right"])),
    softcap=st.sampled_from([None, 5.0]),
    mask=st.sampled_from(["none", "key_padding"]),
)


lengths = st.lists(st.integers(1, 5 * SLICES), min_size=2, max_size=3)


@settings(max_examples=25)
@given(form=st.sampled_from(FORMS), spec=specs, lengths=lengths, batch=st.integers(1, 3))
def test_equals_the_formula_at_any_length(
    tmp_path_factory: pytest.TempPathFactory, form: Sliced, spec: AttentionSpec, lengths: list[int], batch: int
) -> None:
    """Several lengths in one session: a form that kept anything of the first would fail on the next."""
    _compare("onnxruntime", tmp_path_factory.mktemp("sliced"), form, spec, lengths, batch)


@pytest.mark.slow
@settings(max_examples=10)
@given(form=st.sampled_from(FORMS), spec=specs, lengths=lengths, batch=st.integers(1, 3))
def test_equals_the_formula_on_openvino(
    tmp_path_factory: pytest.TempPathFactory, form: Sliced, spec: AttentionSpec, lengths: list[int], batch: int
) -> None:
    _compare("openvino", tmp_path_factory.mktemp("sliced"), form, spec, lengths, batch)


@pytest.mark.parametrize("mask", ["none", "key_padding"])
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_lengths_around_the_number_of_slices(runtime: str, form: Sliced, mask: MaskKind, tmp_path: Path) -> None:
    _compare(runtime, tmp_path, form, SoftmaxAttention(6, 2, 8, pattern=Causal(), mask=mask), LENGTHS[runtime], 2)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_later_key_never_takes_part(runtime: str, form: Sliced, tmp_path: Path) -> None:
    """Each key scores a million higher than the one before; its value tells which one was read."""
    spec, length = SoftmaxAttention(4, 2, 8, pattern=Causal()), 3 * SLICES + 5
    feeds = _feeds(spec, length, 1)
    feeds["q"][..., 0] = 1.0
    feeds["k"][..., 0] = 1e6 * np.arange(length)
    feeds["v"][:] = np.arange(length)[:, None]
    (got,) = _run(runtime, tmp_path, form, spec, [feeds])
    np.testing.assert_allclose(got, np.broadcast_to(np.arange(length)[:, None], got.shape), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_is_proven(runtime: str, form: Sliced, tmp_path: Path) -> None:
    core = Core(SoftmaxAttention(6, 2, 8, pattern=Causal(), mask="key_padding"), square=True)
    assert Prover(tmp_path).prove(form, core, registry.get(runtime), "cpu").passed


@pytest.mark.parametrize("mask", ["none", "key_padding"])
def test_no_value_has_as_many_elements_as_a_square(mask: MaskKind) -> None:
    spec = SoftmaxAttention(4, 2, 8, pattern=Causal(), mask=mask)
    largest = largest_tensor(probe_model(Sliced(), Core(spec, square=True)), batch=1, length=4096)
    assert largest == spec.q_heads * 4096 * 4096 // SLICES
    assert largest <= Sliced().scratch(spec, 1, 4096, 4096) < 4096 * 4096


def test_is_the_default_for_long_causal_attention_on_onnxruntime(tmp_path: Path) -> None:
    prover, engine = Prover(tmp_path), registry.get("onnxruntime")
    spec = SoftmaxAttention(6, 2, 8, pattern=Causal())
    assert choose(Core(spec, square=True, max_keys=2048), engine, "cpu", prover).lowering.name == "sliced-23"
    assert choose(Core(spec, square=True), engine, "cpu", prover).lowering.name == "contrib-gqa"
    assert choose(Core(spec), engine, "cpu", prover).lowering.name == "grouped"


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (Core(SoftmaxAttention(2, 2, 8), square=True), "causal attention"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0)), square=True), "causal attention"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=Causal())), "length are equal"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=Causal(), bias=True), square=True), "no bias"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=Causal(), sink=True), square=True), "no sink"),
    ],
)
def test_refusals(core: Core, reason: str) -> None:
    assert reason in (Sliced().accepts(core) or "")


def _feeds(spec: AttentionSpec, length: int, batch: int) -> dict[str, NDArray[Any]]:
    """Random; with a mask, keys missing everywhere, and a last row whose first half sees nothing."""
    rng = np.random.default_rng(length)
    feeds: dict[str, NDArray[Any]] = {
        "q": 3 * rng.standard_normal((batch, spec.q_heads, length, 8)).astype(np.float32),
        "k": rng.standard_normal((batch, spec.kv_heads, length, 8)).astype(np.float32),
        "v": rng.standard_normal((batch, spec.kv_heads, length, spec.value_head_dim)).astype(np.float32),
    }
    if spec.mask == "key_padding":
        feeds["mask"] = rng.random((batch, length)) < 0.7
        feeds["mask"][-1, : length // 2] = False
    return feeds


def _run(
    runtime: str, folder: Path, form: Sliced, spec: AttentionSpec, runs: list[dict[str, NDArray[Any]]]
) -> list[NDArray[Any]]:
    path = folder / "model.onnx"
    ir.save(probe_model(form, Core(spec, square=True)), path)
    with registry.get(runtime).load(path, LoadOptions(device="cpu", spin=False)) as session:
        return [session.run(feeds)["out"] for feeds in runs]


def _compare(runtime: str, folder: Path, form: Sliced, spec: AttentionSpec, lengths: Sequence[int], batch: int) -> None:
    runs = [_feeds(spec, length, batch) for length in lengths]
    for feeds, got in zip(runs, _run(runtime, folder, form, spec, runs), strict=True):
        np.testing.assert_allclose(got, softmax_attention(**feeds, spec=spec), rtol=0, atol=2e-5)
