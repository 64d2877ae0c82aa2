"""Any attention in slices of queries: the formula's numbers, and only a slice of the scores at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.blockwise import SLICES, Blockwise
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.naive import softmax_attention
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import (
    AttentionSpec,
    Causal,
    Dilated,
    Entmax15,
    Full,
    Pattern,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    SoftmaxAttention,
    Sparsemax,
)
from tests.exporters.shapes import largest_tensor

Feeds = dict[str, NDArray[Any]]
RUNTIMES = ("onnxruntime", "openvino")
patterns: st.SearchStrategy[Pattern] = st.sampled_from(
    [Full(), Causal(), Causal("lower_right"), SlidingWindow(3, 0), SlidingWindow(2, 2, "lower_right"), Dilated(2, 1, 3)]
)


@st.composite
def _cores(draw: st.DrawFn) -> Core:
    spec = SoftmaxAttention(
        4,
        draw(st.sampled_from([1, 2, 4])),
        8,
        draw(st.sampled_from([8, 5])),
        pattern=draw(patterns),
        softcap=draw(st.sampled_from([None, 5.0])),
        mask=draw(st.sampled_from(["none", "key_padding", "dense"])),
        bias=draw(st.booleans()),
        sink=draw(st.booleans()),
    )
    dims = st.tuples(st.sampled_from([1, None]), st.sampled_from([1, 4]), st.sampled_from([1, None])).map(lambda d: (*d, None))
    return Core(spec, mask_dims=draw(dims) if spec.mask == "dense" else (), bias_dims=draw(dims) if spec.bias else ())


@settings(max_examples=25)
@given(core=_cores(), sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=2, max_size=3))
def test_equals_the_formula_at_any_sizes(
    tmp_path_factory: pytest.TempPathFactory, core: Core, sizes: list[tuple[int, int]]
) -> None:
    """Several sizes in one session, fewer queries than slices among them, and rows that see nothing."""
    runs = [_feeds(core, *size) for size in sizes]
    _compare("onnxruntime", tmp_path_factory.mktemp("blockwise"), core, runs)


@pytest.mark.slow
@settings(max_examples=10)
@given(core=_cores(), sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(2, 50)), min_size=2, max_size=3))
def test_equals_the_formula_on_openvino(
    tmp_path_factory: pytest.TempPathFactory, core: Core, sizes: list[tuple[int, int]]
) -> None:
    """At least two keys: what one key does there to attention without a mask is shown in test_lowerings.py."""
    _compare("openvino", tmp_path_factory.mktemp("blockwise"), core, [_feeds(core, *size) for size in sizes])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_hidden_key_never_takes_part(runtime: str, tmp_path: Path) -> None:
    """Keys score a million higher from one to the next, hidden ones by a mask above all; values tell which one was read."""
    spec, length = SoftmaxAttention(4, 4, 8, pattern=SlidingWindow(2, 1), mask="key_padding"), 3 * SLICES + 5
    core = Core(spec)
    feeds = _feeds(core, length, length)
    feeds["q"][..., 0] = 1.0
    feeds["k"][..., 0] = 1e6 * np.arange(length)
    feeds["v"][:] = np.arange(1, length + 1)[:, None]
    _compare(runtime, tmp_path, core, [feeds])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "spec",
    [
        SoftmaxAttention(6, 2, 8, pattern=Causal("lower_right"), mask="key_padding"),
        SoftmaxAttention(2, 2, 8, normalizer=Sparsemax(), mask="dense"),
    ],
    ids=AttentionSpec.summary,
)
def test_is_proven(runtime: str, spec: AttentionSpec, tmp_path: Path) -> None:
    assert Prover(tmp_path).prove(Blockwise(), Core(spec), registry.get(runtime), "cpu").passed


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "spec",
    [
        SoftmaxAttention(2, 2, 8, mask="document"),
        SoftmaxAttention(4, 2, 8, pattern=PrefixLM(), sink=True),
        SoftmaxAttention(2, 2, 8, score="additive", bias=True),
        SoftmaxAttention(2, 2, 8, normalizer=Entmax15(), pattern=Causal()),
        SoftmaxAttention(2, 2, 8, normalizer=Sigmoid(), mask="key_padding"),
    ],
    ids=AttentionSpec.summary,
)
def test_the_whole_family_is_proven(runtime: str, spec: AttentionSpec, tmp_path: Path) -> None:
    core = Core(spec, square=spec.mask == "document")
    assert Prover(tmp_path).prove(Blockwise(), core, registry.get(runtime), "cpu").passed


@pytest.mark.parametrize(
    "spec",
    [
        SoftmaxAttention(2, 2, 8, mask="key_padding"),
        SoftmaxAttention(4, 2, 8, pattern=Causal(), softcap=3.0),
        SoftmaxAttention(2, 2, 8, mask="document", sink=True),
    ],
    ids=AttentionSpec.summary,
)
def test_no_value_has_as_many_elements_as_a_square(spec: AttentionSpec) -> None:
    largest = largest_tensor(probe_model(Blockwise(), Core(spec, square=True)), batch=1, length=4096)
    assert largest <= Blockwise().scratch(spec, 1, 4096, 4096) < 4096 * 4096


def test_scratch_counts_every_size_of_an_additive_score() -> None:
    spec = SoftmaxAttention(2, 2, 8, score="additive")
    largest = largest_tensor(probe_model(Blockwise(), Core(spec, square=True)), batch=1, length=512)
    assert largest == 2 * (512 // SLICES) * 512 * 8
    assert largest <= Blockwise().scratch(spec, 1, 512, 512)


def _feeds(core: Core, queries: int, keys: int) -> Feeds:
    """Random, batch 2; masks have holes, and the last row sees only the later half of the keys."""
    spec = core.spec
    rng = np.random.default_rng([queries, keys])
    feeds: Feeds = {
        "q": 3 * rng.standard_normal((2, spec.q_heads, queries, 8)).astype(np.float32),
        "k": rng.standard_normal((2, spec.kv_heads, keys, 8)).astype(np.float32),
        "v": rng.standard_normal((2, spec.kv_heads, keys, spec.value_head_dim)).astype(np.float32),
    }
    full = (2, spec.q_heads, queries, keys)
    if spec.mask == "key_padding":
        feeds["mask"] = rng.random((2, keys)) < 0.7
        feeds["mask"][-1, : keys // 2] = False
    elif spec.mask == "dense":
        feeds["mask"] = rng.random(_placed(core.mask_dims, full)) < 0.5
        feeds["mask"][..., -1, :] = False
    if spec.bias:
        feeds["bias"] = rng.standard_normal(_placed(core.bias_dims, full)).astype(np.float32)
        feeds["bias"][rng.random(feeds["bias"].shape) < 0.3] = -np.inf
    if spec.sink:
        feeds["sink"] = rng.standard_normal(spec.q_heads).astype(np.float32)
    return feeds


def _placed(dims: tuple[int | None, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size if dim is None else dim for dim, size in zip(dims, full, strict=True))


def _compare(runtime: str, folder: Path, core: Core, runs: list[Feeds]) -> None:
    path = folder / "model.onnx"
    ir.save(probe_model(Blockwise(), core), path)
    with registry.get(runtime).load(path, LoadOptions(device="cpu", spin=False)) as session:
        for feeds in runs:
            expected = softmax_attention(**feeds, spec=core.spec)
            np.testing.assert_allclose(session.run(feeds)["out"], expected, rtol=0, atol=2e-5)
