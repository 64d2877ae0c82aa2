"""How long values live, and what a cache keeps, on graphs and cores small enough to be counted by hand."""

from __future__ import annotations

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from edgeattn.errors import CaptureError
from edgeattn.exporters.cache_size import CacheSize, cache_size, reach
from edgeattn.exporters.liveness import Peak, peak
from edgeattn.exporters.lowerings.base import Core
from edgeattn.spec import (
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    Full,
    GlobalLocal,
    Pattern,
    PrefixLM,
    SlidingWindow,
    SoftmaxAttention,
    Strided,
)


def _peak(body: str, shape: str = "10,20", float_bytes: int = 4, scratch: int = 0, at: str = "") -> Peak:
    """Of a graph from x to y with a square weight w (20, 20); `scratch` bytes inside the node whose type is `at`."""
    text = f'<ir_version: 10, opset_import: ["": 18]> g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((20, 20), np.float32), "w"))
    model = ir.passes.common.ShapeInferencePass()(ir.from_proto(proto)).model
    return peak(model, float_bytes, lambda node: scratch if node.op_type == at else 0)


VALUE = 10 * 20 * 4


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("y = MatMul (x, w)", 2),  # the input and the result; a weight is no value
        ("a = MatMul (x, w) y = MatMul (a, w)", 3),  # the input is the caller's and stays
        ("a = MatMul (x, w) b = MatMul (a, w) y = MatMul (b, w)", 3),  # a is gone when y is made
        ("a = MatMul (x, w) y = Relu (a)", 2),  # over a
        ("a = MatMul (x, w) b = Relu (a) y = Add (a, b)", 3),  # a is read again, so b is another
        ("a = MatMul (x, w) b = Neg (x) y = Add (a, b)", 3),
        ("y = Relu (x)", 2),  # the caller's memory is not written to
        ("a = Neg (x) s = Shape (a) b = Reshape (a, s) y = MatMul (b, w)", 3),  # another view of a; the shape is 16 bytes
        ("a = Neg (x) b = Identity (a) y = Add (a, b)", 2),
        ("s = Shape (w) b = Reshape (w, s) y = MatMul (x, b)", 4),  # b, twice as large, does not lie in the shape's 16 bytes
        ("a = Neg (x) y = MatMul (x, w)", 2),  # a is dropped at once
    ],
)
def test_values_alive_at_once(body: str, values: int) -> None:
    assert values * VALUE <= _peak(body).bytes <= values * VALUE + 16


def test_a_smaller_operand_is_not_reused() -> None:
    assert _peak("a = ReduceMax <keepdims = 1> (x) y = Add (a, x)").bytes == 2 * VALUE + 4


def test_half_floats_are_half() -> None:
    assert _peak("a = MatMul (x, w) y = MatMul (a, w)", float_bytes=2).bytes == 3 * VALUE // 2


def test_scratch_counts_where_its_node_runs() -> None:
    body = "a = MatMul (x, w) b = Softmax (a) y = MatMul (b, w)"
    assert _peak(body).bytes == 3 * VALUE
    assert _peak(body, scratch=VALUE // 2, at="Softmax") == Peak(3 * VALUE, 0, _peak(body).at)
    found = _peak(body, scratch=5 * VALUE, at="Softmax")
    assert (found.bytes, found.scratch) == (7 * VALUE, 5 * VALUE)
    assert found.at.startswith("Softmax")


def test_a_size_that_is_not_known_is_an_error() -> None:
    with pytest.raises(CaptureError, match="does not follow from the sizes of the inputs"):
        _peak("a = MatMul (x, w) y = Relu (a)", shape="n,20")


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        (Full(), None),
        (SlidingWindow(3, 1), None),
        (SlidingWindow(None, 2), None),
        (Dilated(3, 1, 2), None),
        (GlobalLocal(3, 0, 2), None),
        (BlockSparse(4, (("1",),)), None),
        (Causal(), 50),
        (PrefixLM(), 50),
        (Strided(5), 50),
        (Fixed(5), 50),
        (BlockSparse(4, (("1",),), causal=True), 50),
        (SlidingWindow(15, 0), 16),
        (SlidingWindow(80, 0), 50),
        (Dilated(3, 0, 4), 13),
        (GlobalLocal(15, 0, 4, causal=True), 20),
    ],
)
def test_what_later_queries_may_still_see(pattern: Pattern, kept: int | None) -> None:
    assert reach(pattern, 50) == kept


def test_windows_end_and_other_sequences_do_not_grow() -> None:
    causal = Core(SoftmaxAttention(8, 2, 16, value_head_dim=4, pattern=Causal()), square=True)
    window = Core(SoftmaxAttention(8, 1, 16, pattern=SlidingWindow(15, 0)), square=True)
    cross = Core(SoftmaxAttention(8, 8, 16))
    encoder = Core(SoftmaxAttention(8, 8, 16), square=True)
    found = cache_size([(causal, 100), (causal, 100), (window, 100), (cross, 70), (encoder, 70)])
    assert found == CacheSize(per_token=2 * 2 * 20, at_length=2 * 2 * 20 * 100 + 32 * 16 + 8 * 32 * 70, windowed=32 * 16)


def test_a_cache_that_is_an_input_counts_in_full() -> None:
    """Queries are fewer than keys there, and the diagonal lies at the last key."""
    cached = Core(SoftmaxAttention(4, 2, 8, pattern=Causal("lower_right")))
    assert cache_size([(cached, 30)]) == CacheSize(per_token=32, at_length=32 * 30, windowed=0)


def test_an_encoder_caches_nothing() -> None:
    assert cache_size([(Core(SoftmaxAttention(8, 8, 16), square=True), 70), (Core(SoftmaxAttention(8, 8, 16)), 70)]) is None
    assert cache_size([]) is None
