"""Operators of the standard, raised: the canonical model says what the standard's reference says of the operator."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgeattn.exporters.canonical import OPSET
from edgeattn.exporters.conformance import Case, run_ours
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.raising.pipeline import raise_attention
from edgeattn.exporters.sites import find_sites
from edgeattn.runtimes import registry
from edgeattn.spec import Causal, Pattern, SlidingWindow

Array = NDArray[Any]
INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")
SIZE, VALUE_SIZE = 4, 3


@dataclass(frozen=True)
class Call:
    """One Attention node, what is fed to it, and the names of its dynamic dimensions."""

    opset: int
    attributes: dict[str, Any]
    feeds: dict[str, Array]
    names: dict[str, tuple[str | None, ...]]

    def model(self) -> onnx.ModelProto:
        given = [name if name in self.feeds else "" for name in INPUTS[: 1 + max(map(INPUTS.index, self.feeds))]]
        outputs = [name if name == "Y" or name in self._extra else "" for name in OUTPUTS]
        node = helper.make_node("Attention", given, outputs, name="core", **self.attributes)
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in self.feeds.items()}
        inputs = [helper.make_tensor_value_info(name, kinds[name], self._dims(name)) for name in self.feeds]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name]
        graph = helper.make_graph([node], "call", inputs, results)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])

    def spread(self) -> Call:
        """The same with a mask of four full axes: with is_causal, the reference forgets rows that a mask broadcasts to."""
        if "attn_mask" not in self.feeds:
            return self
        (batch, heads, queries), mask = self._rows, self.feeds["attn_mask"]
        return dataclasses.replace(
            self, feeds=self.feeds | {"attn_mask": np.broadcast_to(mask, (batch, heads, queries, mask.shape[-1]))}
        )

    @property
    def _rows(self) -> tuple[int, int, int]:
        shape = self.feeds["Q"].shape
        return shape[:3] if len(shape) == 4 else (shape[0], self.attributes["q_num_heads"], shape[1])

    @property
    def _extra(self) -> set[str]:
        past = {"present_key", "present_value"} if "past_key" in self.feeds else set()
        return past | ({"qk_matmul_output"} if "qk_matmul_output_mode" in self.attributes else set())

    def _dims(self, name: str) -> list[int | str]:
        shape = self.feeds[name].shape
        return [label or size for label, size in zip(self.names.get(name, (None,) * len(shape)), shape, strict=True)]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    opset, flat, dynamic = draw(st.sampled_from([23, 24, 25])), draw(st.booleans()), draw(st.booleans())
    kv_heads, group, batch = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    heads, queries = kv_heads * group, draw(st.integers(1, 5))
    keys = draw(st.sampled_from([queries, *range(1, 6)]))
    cache = draw(st.sampled_from(["none", "past", *(["valid"] if opset > 23 else [])]))
    past = draw(st.integers(1, 4)) if cache == "past" else 0
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def floats(*shape: int) -> Array:
        return 2 * rng.standard_normal(shape, dtype=np.float32)

    def operand(length: int, count: int, size: int) -> Array:
        return floats(batch, length, count * size) if flat else floats(batch, count, length, size)

    feeds = {"Q": operand(queries, heads, SIZE), "K": operand(keys, kv_heads, SIZE), "V": operand(keys, kv_heads, VALUE_SIZE)}
    kind = draw(st.sampled_from(["none", "bool", "float"]))
    if kind != "none":
        shortest = 1 if opset > 23 else past + keys
        length = draw(st.integers(shortest, past + keys)) if cache != "past" else past + keys
        full = [draw(st.sampled_from([1, size])) for size in (batch, heads, queries)]
        shape = [*full, length][draw(st.integers(0, 3)) :]
        shown = rng.random(shape) < 0.7
        feeds["attn_mask"] = shown if kind == "bool" else np.where(shown, floats(*shape), -np.inf).astype(np.float32)
    if cache == "past":
        feeds["past_key"], feeds["past_value"] = floats(batch, kv_heads, past, SIZE), floats(batch, kv_heads, past, VALUE_SIZE)
    elif cache == "valid":
        feeds["nonpad_kv_seqlen"] = rng.integers(0, keys + 1, batch)
    attributes = _attributes(draw, opset)
    attributes |= {"q_num_heads": heads, "kv_num_heads": kv_heads} if flat else {}
    return Call(opset, attributes, feeds, _names(flat, queries == keys) if dynamic else {})


def _attributes(draw: st.DrawFn, opset: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {"is_causal": draw(st.integers(0, 1))}
    if opset == 25:
        attributes |= {f"{side}_window_size": draw(st.integers(-1, 3)) for side in ("left", "right")}
    if draw(st.booleans()):
        attributes["scale"] = 0.25
    if draw(st.booleans()):
        attributes["softcap"] = 1.5
    # mode 0 with a soft cap: the reference caps it, which the operator's text does not say
    if (mode := draw(st.sampled_from([None, 1, 2, 3]))) is not None:
        attributes["qk_matmul_output_mode"] = mode
    return attributes


def _names(flat: bool, square: bool) -> dict[str, tuple[str | None, ...]]:
    keys = "queries" if square else "keys"
    lengths = {"Q": "queries", "K": keys, "V": keys}
    operands: dict[str, tuple[str | None, ...]] = {
        name: ("batch", axis, None) if flat else ("batch", None, axis, None) for name, axis in lengths.items()
    }
    return operands | dict.fromkeys(("past_key", "past_value"), ("batch", None, "past", None))


def _raised(model: onnx.ModelProto) -> ir.Model:
    raised: ir.Model = ir.from_proto(model)
    raise_attention(raised)
    return raised


def _check(call: Call) -> ir.Model:
    """The raised model gives what the operator gives, in onnx's own interpreter; returns it."""
    model, spread = call.model(), call.spread()
    raised = _raised(model)
    assert raised.graph.opset_imports[""] == OPSET
    got = ReferenceEvaluator(ir.to_proto(raised)).run(None, call.feeds)
    expected = ReferenceEvaluator(spread.model()).run(None, spread.feeds)
    for value, array, wanted in zip(model.graph.output, got, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=5e-6, err_msg=value.name)
    return raised


@settings(max_examples=60)
@given(call=calls())
def test_attention_is_what_the_reference_says(call: Call) -> None:
    assert len(find_sites(_check(call))) == 1


@pytest.mark.slow
@settings(max_examples=600)
@given(call=calls())
def test_attention_of_many_kinds_is_what_the_reference_says(call: Call) -> None:
    _check(call)


def _call(opset: int = 25, queries: int = 3, keys: int = 3, past: int = 0, dynamic: bool = False, **attributes: Any) -> Call:
    rng = np.random.default_rng(0)
    shapes = {"Q": (2, 4, queries, SIZE), "K": (2, 2, keys, SIZE), "V": (2, 2, keys, VALUE_SIZE)}
    if past:
        shapes |= {"past_key": (2, 2, past, SIZE), "past_value": (2, 2, past, VALUE_SIZE)}
    feeds = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return Call(opset, attributes, feeds, _names(False, queries == keys) if dynamic else {})


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({"is_causal": 1}, Causal()),
        ({"is_causal": 1, "past": 2}, Causal("lower_right")),
        ({"is_causal": 1, "left_window_size": 2, "past": 2}, SlidingWindow(2, 0, "lower_right")),
        ({"is_causal": 1, "right_window_size": 3}, Causal()),
        ({"left_window_size": 1, "right_window_size": 2, "keys": 5}, SlidingWindow(1, 2)),
    ],
    ids=str,
)
def test_positions_become_a_pattern_not_a_mask(arguments: dict[str, Any], pattern: Pattern, dynamic: bool) -> None:
    """A mask would be right too, but would keep every form that knows the pattern from being chosen."""
    call = _call(dynamic=dynamic, **arguments)
    (site,) = find_sites(_check(call))
    assert site.spec.pattern == pattern
    assert site.spec.mask == "none"


def test_valid_lengths_become_key_padding() -> None:
    call = _call()
    call.feeds["nonpad_kv_seqlen"] = np.array([3, 1])
    (site,) = find_sites(_check(call))
    assert site.spec.mask == "key_padding"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_node_of_a_graph_is_raised(dtype: str) -> None:
    """Two attentions in a row, rotary before them, other operators between."""
    kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    text = """
        <ir_version: 11, opset_import: ["" : 23]>
        g (T[2, 4, s, 8] x, T[s, 4] cos, T[s, 4] sin, int64[2, s] at) => (T[2, 4, s, 8] y) {
            turned = RotaryEmbedding (x, cos, sin, at)
            first = Attention <is_causal = 1> (turned, x, x)
            shifted = Add (first, x)
            y = Attention (shifted, turned, first)
        }
    """.replace("T[", f"{dtype.replace('32', '')}[")
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in (("x", (2, 4, 5, 8)), ("cos", (5, 4)), ("sin", (5, 4)))
    }
    feeds["at"] = np.array([[0, 1, 2, 3, 4], [4, 0, 1, 2, 2]])
    raised = _raised(model)
    got = ReferenceEvaluator(ir.to_proto(raised)).run(None, feeds)
    loose = 2e-2 if kind == TensorProto.FLOAT16 else 5e-6
    for array, expected in zip(got, ReferenceEvaluator(model).run(None, feeds), strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_allclose(array, expected, atol=loose)
    sites = find_sites(raised)
    assert len(sites) == 2
    assert all(site.core({}).square for site in sites)
    assert len({site.name for site in sites}) == 2


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_mask_shorter_than_the_keys_hides_the_rest_on_a_runtime(runtime: str, tmp_path: Path) -> None:
    """Padding a bool tensor by a number that only the run knows: no case of the standard does it."""
    call = _call(opset=24, keys=5, dynamic=True)
    call.feeds["attn_mask"] = np.array([[True, False, True, True], [False] * 4, [True] * 4])
    reference = call.spread()
    (expected,) = ReferenceEvaluator(reference.model()).run(None, reference.feeds)
    case = Case("short", "Attention", call.model(), call.feeds, {"Y": expected}, {"Y": 1e-5}, 5e-6)
    verdict = run_ours(case, registry.get(runtime), Prover(tmp_path), tmp_path)
    assert verdict.status == "pass", verdict.reason


def test_what_a_canonical_node_must_name_has_to_be_fixed() -> None:
    call = _call()
    call.names["Q"] = (None, "heads", None, None)
    with pytest.raises(RaisingError, match="axis 1 of 'Q' must have a fixed size, got heads"):
        _raised(call.model())


def test_an_operator_that_changed_since_is_refused() -> None:
    text = '<ir_version: 11, opset_import: ["" : 21]> g (float[1, 4, 2] x, float[4] s) => (float[1, 4, 2] y) { y = GroupNormalization <num_groups = 2> (x, s, s) }'
    with pytest.raises(
        RaisingError, match="GroupNormalization of opset 21 cannot be written in opset 18: it changed in opset 21"
    ):
        _raised(onnx.parser.parse_model(text))
