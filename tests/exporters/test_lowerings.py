"""Every form, on every runtime that is here, against the formula."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.lowerings.registry import LOWERINGS, get
from edgeattn.exporters.probing import Prover, probe_model, square_only
from edgeattn.naive import softmax_attention
from edgeattn.probe import CROSS, GRID, ProbeResult, Size, run_probe
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import Causal, Full, MaskKind, Pattern, SlidingWindow, SoftmaxAttention, function_name

SIZES: tuple[Size, ...] = ((1, 1, 1), (1, 7, 7), (2, 9, 9), (2, 17, 17), (1, 1, 9), (1, 9, 1), (2, 5, 9), (2, 9, 4))
"""Small, odd, one; the whole grid of a probe is for the few cores at the end."""

PATTERNS = (
    Full(),
    Causal(),
    Causal("lower_right"),
    SlidingWindow(3, 0),
    SlidingWindow(2, 2),
    SlidingWindow(None, 4),
    SlidingWindow(3, 0, "lower_right"),
)

UNMASKED_AFTER_ONE_KEY = "unmasked attention is computed wrongly once it ran with a single key"
NO_GROUP_QUERY = "the operator does not import without a past"

KNOWN: dict[tuple[str, str], str] = {
    ("openvino", "attention-23"): UNMASKED_AFTER_ONE_KEY,
    ("openvino", "attention-24"): UNMASKED_AFTER_ONE_KEY,
    ("openvino", "blockwise"): UNMASKED_AFTER_ONE_KEY,
    ("openvino", "contrib-gqa"): NO_GROUP_QUERY,
    ("openvino", "contrib-mha"): UNMASKED_AFTER_ONE_KEY,
    ("openvino", "decomposed"): UNMASKED_AFTER_ONE_KEY,
    ("openvino", "grouped"): UNMASKED_AFTER_ONE_KEY,
}
"""What is known to fail, and why. This list may only shrink; a failure outside its reason is a bug."""


LOWEST_HIDES = [("onnxruntime", "attention-23"), ("onnxruntime", "attention-24")]
"""A row of the lowest finite number alone gives zeros there instead of the mean of the values. May only shrink."""


def _known(runtime: str, lowering: str, core: Core) -> str | None:
    reason = KNOWN.get((runtime, lowering))
    spec = core.spec
    if reason == UNMASKED_AFTER_ONE_KEY:
        bare = isinstance(spec.pattern, Full) and spec.mask == "none" and not spec.bias and spec.softcap is None
        return reason if bare else None
    return reason


@pytest.fixture(scope="module")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Prover:
    return Prover(tmp_path_factory.mktemp("probes"))


def _prove(prover: Prover, runtime: str, lowering: Lowering, core: Core) -> ProbeResult:
    square = square_only(lowering, core)
    sizes = [size for size in SIZES if not square or size[1] == size[2]]
    return run_probe(runtime, "cpu", prover.model(lowering, core), core.spec, sizes, square)


def _check_all(prover: Prover, runtime: str, core: Core) -> set[str]:
    """Every form that accepts `core` is proven, or fails as known; returns the names of those proven."""
    proven = set()
    for lowering in LOWERINGS.values():
        if lowering.accepts(core) is not None:
            continue
        result, known = _prove(prover, runtime, lowering, core), _known(runtime, lowering.name, core)
        if known is None:
            assert result.passed, f"{lowering.name} of {core.spec.summary()}: {result.reason}"
            proven.add(lowering.name)
        else:
            assert not result.passed, f"{lowering.name} works now: take {runtime}/{lowering.name} off the list ({known})"
    return proven


OPTIONS: tuple[tuple[tuple[int, int], int, MaskKind, bool, float | None], ...] = (
    ((2, 2), 8, "none", False, None),
    ((6, 2), 5, "none", False, None),
    ((2, 2), 5, "key_padding", True, None),
    ((6, 2), 8, "key_padding", False, 3.0),
    ((2, 2), 8, "dense", False, None),
)
"""Heads, value size, mask, bias, softcap: each value of each, and the pairs that forms treat apart."""
MASKS: tuple[MaskKind, ...] = ("none", "key_padding", "dense")


@pytest.mark.parametrize("pattern", [Full(), Causal(), Causal("lower_right"), SlidingWindow(3, 0)], ids=str)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_form_is_proven(runtime: str, pattern: Pattern, prover: Prover) -> None:
    _prove_all(runtime, pattern, prover, OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_form_is_proven_with_all_options(runtime: str, pattern: Pattern, prover: Prover) -> None:
    _prove_all(runtime, pattern, prover, itertools.product(((2, 2), (6, 2)), (8, 5), MASKS, (False, True), (None, 3.0)))


def _prove_all(
    runtime: str,
    pattern: Pattern,
    prover: Prover,
    options: Iterable[tuple[tuple[int, int], int, MaskKind, bool, float | None]],
) -> None:
    for heads, size, mask, bias, softcap in options:
        spec = SoftmaxAttention(*heads, 8, value_head_dim=size, pattern=pattern, mask=mask, bias=bias, softcap=softcap)
        proven = _check_all(prover, runtime, Core(spec, square=isinstance(pattern, Causal) and mask == "none"))
        assert proven, f"nothing writes {spec.summary()} for {runtime}"


@st.composite
def _cores(draw: st.DrawFn) -> Core:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    side = st.one_of(st.none(), st.integers(0, 12))
    alignment = st.sampled_from(["upper_left", "lower_right"])
    windows = (
        st.tuples(side, side, alignment)
        .filter(lambda w: w[:2] not in ((None, None), (None, 0)))
        .map(lambda w: SlidingWindow(w[0], w[1], w[2]))  # type: ignore[arg-type]
    )
    spec = SoftmaxAttention(
        kv_heads * group,
        kv_heads,
        draw(st.sampled_from([1, 3, 8, 16])),
        value_head_dim=draw(st.sampled_from([0, 1, 5, 8])),
        scale=draw(st.sampled_from([0.0, 0.1, 1.0])),
        pattern=draw(st.one_of(st.just(Full()), alignment.map(Causal), windows)),  # type: ignore[arg-type]
        softcap=draw(st.sampled_from([None, None, 0.5, 20.0])),
        mask=draw(st.sampled_from(["none", "key_padding", "dense"])),
        bias=draw(st.booleans()),
    )
    dims = st.tuples(st.sampled_from([1, None]), st.sampled_from([1, spec.q_heads]), st.sampled_from([1, None]))
    mask_dims = draw(st.one_of(st.just(()), dims.map(lambda d: (*d, None)))) if spec.mask == "dense" else ()
    bias_dims = draw(st.one_of(st.just(()), dims.map(lambda d: (*d, None)), st.just((None, None)))) if spec.bias else ()
    return Core(spec, draw(st.booleans()), mask_dims=mask_dims, bias_dims=bias_dims)


@hypothesis_settings(max_examples=25)
@given(core=_cores())
def test_any_core_on_onnxruntime(core: Core, prover: Prover) -> None:
    assert _check_all(prover, "onnxruntime", core)


@pytest.mark.slow
@hypothesis_settings(max_examples=150)
@given(core=_cores())
def test_many_cores_on_onnxruntime(core: Core, prover: Prover) -> None:
    assert _check_all(prover, "onnxruntime", core)


WHOLE = {
    "padding": Core(SoftmaxAttention(2, 2, 8, mask="key_padding"), square=True),
    "causal": Core(SoftmaxAttention(2, 2, 8, pattern=Causal()), square=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_prover_runs_the_whole_grid(name: str, tmp_path: Path) -> None:
    prover, runtime, core = Prover(tmp_path), registry.get("onnxruntime"), WHOLE[name]
    result = prover.prove(get("attention-23"), core, runtime, "cpu")
    assert result == ProbeResult(True, "", result.max_abs)
    assert 0 < result.max_abs < 5e-6
    assert prover.prove(get("attention-23"), core, runtime, "cpu") is result
    assert {1, 7, 65, 513} <= {size[1] for size in (*GRID, *CROSS)}


def test_sites_whose_masks_broadcast_differently_have_probes_of_their_own(prover: Prover) -> None:
    spec = SoftmaxAttention(2, 2, 8, bias=True)
    cores = [Core(spec, bias_dims=dims) for dims in ((), (1, 1, None, None), (1, 2, None, None), (None, None))]
    paths = [prover.model(get("decomposed"), core) for core in cores]
    assert len(set(paths)) == 4
    shapes = [[dim.dim_value or 0 for dim in onnx.load(path).graph.input[3].type.tensor_type.shape.dim] for path in paths]
    assert shapes == [[0, 1, 0, 0], [1, 1, 0, 0], [1, 2, 0, 0], [0, 0]]


@pytest.mark.parametrize("heads", [(2, 2), (6, 2)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bias_may_hide_keys(runtime: str, heads: tuple[int, int], tmp_path: Path) -> None:
    """-inf in a bias, as float masks have it: single keys, whole rows, together with a pattern and with padding. The
    lowest finite number hides nothing by itself."""
    rng = np.random.default_rng(0)
    queries, keys = 5, 7
    bias = rng.standard_normal((1, heads[0], queries, keys)).astype(np.float32)
    bias[rng.random(bias.shape) < 0.4] = -np.inf
    bias[:, :, 1] = -np.inf  # a row that sees nothing
    bias[:, 0, 2] = -np.inf  # only in the first head
    bias[:, :, 3] = np.finfo(np.float32).min  # every key equally low: the mean of the values
    feeds = {
        "q": rng.standard_normal((2, heads[0], queries, 8), dtype=np.float32),
        "k": rng.standard_normal((2, heads[1], keys, 8), dtype=np.float32),
        "v": rng.standard_normal((2, heads[1], keys, 8), dtype=np.float32),
        "bias": bias,
    }
    for pattern, mask in itertools.product((Full(), Causal(), Causal("lower_right")), ("none", "key_padding")):
        spec = SoftmaxAttention(*heads, 8, pattern=pattern, bias=True, mask=mask)  # type: ignore[arg-type]
        core = Core(spec, bias_dims=(1, heads[0], None, None))
        given = {**feeds, "mask": np.arange(keys)[None, :] < np.array([[3], [7]])} if mask != "none" else feeds
        expected = softmax_attention(**given, spec=spec)
        assert not expected[:, :, 1].any()
        for lowering in LOWERINGS.values():
            if lowering.accepts(core) is None:
                path = tmp_path / f"{lowering.name}-{function_name(spec)}.onnx"
                ir.save(probe_model(lowering, core), path)
                with registry.get(runtime).load(path, LoadOptions(device="cpu")) as session:
                    got = session.run(given)["out"]
                lowest_is_hidden = (runtime, lowering.name) in LOWEST_HIDES
                rows = [0, 1, 2, 4] if lowest_is_hidden else range(queries)
                np.testing.assert_allclose(got[:, :, rows], expected[:, :, rows], atol=5e-6, err_msg=f"{lowering.name} {spec}")
                if lowest_is_hidden and pattern == Full() and mask == "none":
                    assert not got[:, :, 3].any(), f"{lowering.name} works now: take it off the list"
