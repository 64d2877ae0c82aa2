"""Every form, on every runtime that is here, against the formula; and that the probe which says so can say no."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgeattn.errors import UsageError
from edgeattn.exporters.canonical import canonical_node, canonicalize
from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.contrib import MultiHeadAttention
from edgeattn.exporters.lowerings.decomposed import Decomposed, repeat_heads
from edgeattn.exporters.lowerings.registry import LOWERINGS, get
from edgeattn.exporters.lowerings.visibility import Visibility, visibility
from edgeattn.exporters.probing import Prover, probe_model, square_only
from edgeattn.naive import softmax_attention
from edgeattn.probe import CROSS, GRID, ProbeResult, Size, run_probe
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import AttentionSpec, Causal, Full, MaskKind, Pattern, SlidingWindow, SoftmaxAttention, function_name

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


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
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


class _Wrong(Decomposed):
    """Base of forms that are deliberately wrong, so that the probe has something to find."""

    name: ClassVar[str] = "wrong"


class NoScale(_Wrong):
    """Forgets the scale."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        wrong = SoftmaxAttention(core.spec.q_heads, core.spec.kv_heads, core.spec.head_dim, scale=1.0)
        return super().lower(b, Core(wrong), Operands(x.q, x.k, x.v))


class FiniteMask(_Wrong):
    """Hides keys with -10000, as com.microsoft's key_padding_mask does."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        shown = super().shown(b, core, x)
        assert shown.additive is not None
        return Visibility(b.op("Max", shown.additive, b.number(-10000)), shown.nonempty)


class NoMask(_Wrong):
    """Ignores the mask."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, Operands(x.q, x.k, x.v, None, x.bias))


class NoBias(_Wrong):
    """Ignores the bias."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, Operands(x.q, x.k, x.v, x.mask))


class NoPattern(_Wrong):
    """Ignores causality and windows."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, x, pattern=Full())


class WiderWindow(_Wrong):
    """One key too many on the left."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        pattern = core.spec.pattern
        assert isinstance(pattern, SlidingWindow)
        assert pattern.left is not None
        return visibility(b, core, x, pattern=SlidingWindow(pattern.left + 1, pattern.right, pattern.alignment))


class NarrowerWindow(_Wrong):
    """One key too few on the left."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        pattern = core.spec.pattern
        assert isinstance(pattern, SlidingWindow)
        assert pattern.left is not None
        return visibility(b, core, x, pattern=SlidingWindow(pattern.left - 1, pattern.right, pattern.alignment))


class OtherDiagonal(_Wrong):
    """Upper left instead of lower right."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, x, pattern=Causal("upper_left"))


class NoGuard(_Wrong):
    """Queries that see nothing get the mean of all values instead of zeros."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return Visibility(super().shown(b, core, x).additive, None)


class SwappedHeads(_Wrong):
    """Reads the key heads in the wrong order."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        last = b.op("Slice", x.k, b.ints(-1), b.ints(-(1 << 40)), b.ints(1), b.ints(-1))
        return super().lower(b, core, Operands(x.q, last, x.v, x.mask, x.bias))


class InterleavedGroups(_Wrong):
    """Query head h reads key head h % K instead of h // (H / K)."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        k, v = (b.op("Concat", *[value] * spec.group, axis=1) for value in (x.k, x.v))
        return super().lower(b, Core(SoftmaxAttention(spec.q_heads, spec.q_heads, spec.head_dim)), Operands(x.q, k, v))


class NoSoftcap(_Wrong):
    """Forgets the soft cap."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        return super().lower(b, Core(SoftmaxAttention(spec.q_heads, spec.kv_heads, spec.head_dim)), x)


WRONG: dict[str, tuple[type[_Wrong], AttentionSpec]] = {
    "scale": (NoScale, SoftmaxAttention(2, 2, 8)),
    "softcap": (NoSoftcap, SoftmaxAttention(2, 2, 8, softcap=3.0)),
    "finite mask": (FiniteMask, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "finite causal": (FiniteMask, SoftmaxAttention(2, 2, 8, pattern=Causal())),
    "finite dense": (FiniteMask, SoftmaxAttention(2, 2, 8, mask="dense")),
    "mask": (NoMask, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "dense mask": (NoMask, SoftmaxAttention(2, 2, 8, mask="dense")),
    "mask beside a bias": (NoMask, SoftmaxAttention(2, 2, 8, mask="key_padding", bias=True)),
    "bias": (NoBias, SoftmaxAttention(2, 2, 8, bias=True)),
    "causal": (NoPattern, SoftmaxAttention(2, 2, 8, pattern=Causal())),
    "window": (NoPattern, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 3))),
    "window + 1": (WiderWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0))),
    "window - 1": (NarrowerWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0))),
    "long window + 1": (WiderWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(127, 0))),
    "diagonal": (OtherDiagonal, SoftmaxAttention(2, 2, 8, pattern=Causal("lower_right"))),
    "empty rows": (NoGuard, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "heads": (SwappedHeads, SoftmaxAttention(2, 2, 8)),
    "groups": (InterleavedGroups, SoftmaxAttention(6, 2, 8)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_probe_finds_a_form_that_is_wrong(name: str, tmp_path: Path) -> None:
    """With the probe's own sizes: it is what decides in an export. The right form passes beside it."""
    wrong, spec = WRONG[name]
    ir.save(probe_model(wrong(), Core(spec)), tmp_path / "wrong.onnx")
    sizes = [size for size in (*GRID, *CROSS) if size[1] <= 128 and size[2] <= 128]
    if name == "long window + 1":
        sizes = [(1, 333, 333)]
    found = run_probe("onnxruntime", "cpu", tmp_path / "wrong.onnx", spec, sizes)
    assert not found.passed
    assert "wrong values" in found.reason
    assert found.max_abs > 100 * 5e-6  # far beyond rounding, so no tolerance would hide it
    ir.save(probe_model(Decomposed(), Core(spec)), tmp_path / "right.onnx")
    right = run_probe("onnxruntime", "cpu", tmp_path / "right.onnx", spec, sizes)
    assert right.passed, right.reason


def test_a_model_that_does_not_load_is_not_proven(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    result = run_probe("onnxruntime", "cpu", tmp_path / "broken.onnx", SoftmaxAttention(2, 2, 8), [(1, 2, 2)])
    assert not result.passed
    assert result.reason


# ----- the operator's own conformance data as an oracle

_OPTIONAL = ("q_num_heads", "kv_num_heads")


def _node_tests() -> dict[str, Any]:
    import onnx.backend.test.case.node.attention  # registers its cases; loading all operators takes ten seconds
    from onnx.backend.test.case import node

    found = {}
    for case in node._NodeTestCases:
        if case.name.startswith("test_attention_4d") and not case.name.endswith("_expanded"):
            model = onnx.load(Path(case.model_dir) / "model.onnx") if case.model is None else case.model
            if _expressible(model):
                found[case.name] = case
    return found


def _expressible(model: onnx.ModelProto) -> bool:
    """Plain q, k, v and a mask that spans all keys: no past, no second output, no padding counts, float32."""
    node = model.graph.node[0]
    names = [*node.input, "", "", "", ""]
    if (
        any(names[4:])
        or len([name for name in node.output if name]) != 1
        or len(model.graph.input[0].type.tensor_type.shape.dim) != 4
    ):
        return False
    types = {value.type.tensor_type.elem_type for value in model.graph.input}
    attributes = {attribute.name for attribute in node.attribute}
    keys = model.graph.input[1].type.tensor_type.shape.dim[2].dim_value
    spans = not names[3] or model.graph.input[3].type.tensor_type.shape.dim[-1].dim_value == keys
    return (
        types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL} and spans and attributes <= {"scale", "softcap", "is_causal"}
    )


def _as_core(model: onnx.ModelProto) -> Core:
    node = model.graph.node[0]
    q, k, v = ([dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input[:3])
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    masks = [value.type.tensor_type for value in model.graph.input[3:]]
    is_bool = bool(masks) and masks[0].elem_type == onnx.TensorProto.BOOL
    dims = tuple(dim.dim_value for dim in masks[0].shape.dim) if masks else ()
    spec = SoftmaxAttention(
        q[1],
        k[1],
        q[3],
        v[3],
        scale=round(given.get("scale", 0.0), 7),
        pattern=Causal() if given.get("is_causal") else Full(),
        softcap=given.get("softcap") or None,
        mask="dense" if is_bool else "none",
        bias=bool(masks) and not is_bool,
    )
    return Core(spec, mask_dims=dims if is_bool else (), bias_dims=() if is_bool else dims)


def test_the_operators_own_test_data() -> None:
    """Every lowering that accepts a case of ai.onnx Attention gives the output that onnx ships with it."""
    cases = _node_tests()
    tried = 0
    for name, case in cases.items():
        model = onnx.load(Path(case.model_dir) / "model.onnx") if case.model is None else case.model
        core = _as_core(model)
        inputs, outputs = case.data_sets[0]
        feeds = dict(zip(core.spec.input_names, inputs, strict=True))
        formula = softmax_attention(**feeds, spec=core.spec)
        np.testing.assert_allclose(formula, outputs[0], rtol=case.rtol, atol=1e-5, err_msg=f"{name}: the spec says otherwise")
        for lowering in LOWERINGS.values():
            if lowering.accepts(core) is None:
                session = onnxruntime.InferenceSession(ir.to_proto(probe_model(lowering, core)).SerializeToString())
                got = session.run(None, feeds)[0]
                np.testing.assert_allclose(got, outputs[0], rtol=case.rtol, atol=1e-5, err_msg=f"{name} as {lowering.name}")
                tried += 1
    assert len(cases) >= 12
    assert tried >= 40


# ----- what a form writes


@pytest.mark.parametrize(
    "spec", [SoftmaxAttention(2, 2, 8, mask="key_padding"), SoftmaxAttention(6, 2, 8, 5, softcap=2.0, bias=True)]
)
def test_the_body_of_a_canonical_node_runs_as_it_is(spec: AttentionSpec) -> None:
    names: dict[str, list[str | int]] = {
        "q": ["b", spec.q_heads, "s", 8],
        "k": ["b", spec.kv_heads, "t", 8],
        "v": ["b", spec.kv_heads, "t", spec.value_head_dim],
        "mask": ["b", "t"],
        "bias": [1, spec.q_heads, "s", "t"],
    }
    inputs = [
        ir.val(name, ir.DataType.BOOL if name == "mask" else ir.DataType.FLOAT, ir.Shape(names[name]))
        for name in spec.input_names
    ]
    node = canonical_node(spec, inputs, name="core")
    node.outputs[0].name, node.outputs[0].type = "out", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 18, "edgeattn": 1}, name="g")
    model = ir.Model(graph, ir_version=IR_VERSION)
    canonicalize(model)
    proto = ir.to_proto(model)
    assert [function.name for function in proto.functions] == [function_name(spec)]
    rng = np.random.default_rng(0)
    for batch, queries, keys in ((1, 1, 1), (2, 5, 3)):
        feeds: dict[str, Any] = {
            "q": rng.standard_normal((batch, spec.q_heads, queries, 8), dtype=np.float32),
            "k": rng.standard_normal((batch, spec.kv_heads, keys, 8), dtype=np.float32),
            "v": rng.standard_normal((batch, spec.kv_heads, keys, spec.value_head_dim), dtype=np.float32),
        }
        if spec.mask != "none":
            feeds["mask"] = np.arange(keys)[None, :] < np.array([[1], [0]])[:batch]
        if spec.bias:
            feeds["bias"] = np.where(rng.random((1, spec.q_heads, queries, keys)) < 0.5, -np.inf, 1).astype(np.float32)
        expected = softmax_attention(**feeds, spec=spec)
        np.testing.assert_allclose(ReferenceEvaluator(proto).run(None, feeds)[0], expected, atol=2e-6)
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=2e-6)


def test_grouped_never_repeats_keys_or_values() -> None:
    core = Core(SoftmaxAttention(6, 2, 8, mask="key_padding", pattern=Causal()))
    written = {name: [node.op_type for node in probe_model(get(name), core).graph] for name in ("grouped", "decomposed")}
    assert "Expand" not in written["grouped"]
    assert "Expand" in written["decomposed"]


def test_repeat_heads_of_one_head_each_writes_nothing() -> None:
    b, value = Builder(), ir.val("k")
    assert repeat_heads(b, value, SoftmaxAttention(2, 2, 8)) is value
    assert list(b.nodes) == []


@pytest.mark.parametrize(("name", "heads"), [("decomposed", (2, 2)), ("decomposed", (6, 2)), ("grouped", (6, 2))])
def test_scratch_is_what_the_largest_value_of_the_graph_needs(name: str, heads: tuple[int, int]) -> None:
    lowering, spec = get(name), SoftmaxAttention(*heads, 8, mask="key_padding")
    model = probe_model(lowering, Core(spec))
    sizes = {"batch": 3, "queries": 11, "keys": 17}
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape or ()])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
    scores = max(
        int(np.prod(shape)) for node in proto.graph.node if node.op_type == "Softmax" for shape in [shapes[node.input[0]]]
    )
    repeated = [shapes[node.output[0]] for node in proto.graph.node if node.op_type == "Expand"]
    needed = scores + sum(int(np.prod(shape)) for shape in repeated if len(shape) == 5)
    assert lowering.scratch(spec, 3, 11, 17) == needed


def test_contrib_mha_claims_to_hold_no_scores_only_without_a_mask() -> None:
    form = MultiHeadAttention()
    assert form.scratch(SoftmaxAttention(2, 2, 8), 1, 4096, 4096) < 4096 * 4096
    for spec in (SoftmaxAttention(2, 2, 8, mask="key_padding"), SoftmaxAttention(2, 2, 8, pattern=Causal())):
        assert form.scratch(spec, 1, 4096, 4096) == 2 * 4096 * 4096


REFUSALS = {
    "grouped": (Core(SoftmaxAttention(2, 2, 8)), "nothing to group"),
    "contrib-mha": (Core(SoftmaxAttention(6, 2, 8)), "got 6 and 2"),
    "contrib-gqa": (Core(SoftmaxAttention(6, 2, 8), square=True), "always causal"),
    "decomposed-open": (Core(SoftmaxAttention(6, 2, 8, pattern=Causal())), "mask already"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_why(name: str) -> None:
    core, reason = REFUSALS[name]
    assert reason in (get(name).accepts(core) or "")


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (Core(SoftmaxAttention(2, 2, 8, pattern=Causal())), "length are equal"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=Causal(), mask="key_padding"), square=True), "no mask"),
        (Core(SoftmaxAttention(2, 2, 8, 4, pattern=Causal()), square=True), "one head size"),
        (Core(SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 1)), square=True), "always causal"),
    ],
)
def test_contrib_gqa_refuses_what_it_cannot_say(core: Core, reason: str) -> None:
    assert reason in (get("contrib-gqa").accepts(core) or "")


def test_an_unknown_lowering_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown lowering 'atention-23'; did you mean 'attention-23'"):
        get("atention-23")
