"""A mask is what it computes, however it is built; what is no mask, or another one, is never taken for one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from edgeattn.exporters.raising.masks import Lengths, Meaning, meaning
from edgeattn.patterns import Causal, Full, Pattern, SlidingWindow

HEADER = """
<ir_version: 10, opset_import: ["" : 18]>
g (int64[batch, keys] attention_mask, int64[batch, keys] input_ids, float[batch, 4, queries, 8] q, float[batch, 1, queries, keys] given) => (float[a, b, c, d] m)
<float zero = {0}, float one = {1}, float hides = {-3.4028234663852886e38}, float strong = {-10000.0},
 int64 i0 = {0}, int64 i1 = {1}, int64[1] n1 = {-1}, int64[2] a12 = {1, 2}, int64[2] a01 = {0, 1}>
{
    shape = Shape (attention_mask)
    length = Gather (shape, i1)
    places = Range (i0, length, i1)
    row = Unsqueeze (places, n1)
    real = Cast <to = 9> (attention_mask)
    padding = Unsqueeze (real, a12)
    causal2 = LessOrEqual (places, row)
    causal = Unsqueeze (causal2, a01)
    BODY
}
"""
Constants = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
CONSTANTS: Constants = {
    "inf": np.array(-np.inf, dtype=np.float32),
    "triangle": np.tril(np.ones((1, 1, 64, 64), dtype=np.bool_)),
    "z1": np.array([0]),
    "zz": np.array([0, 0]),
    "a23": np.array([2, 3]),
    "i1s": np.array([1]),
    "w20": np.array(20),
    "w512": np.array(512),
    "w5000": np.array(5000),
    "hundred": np.array(100),
    "pad": np.array(7),
    "slope": np.array(-0.5, dtype=np.float32),
}


def graph(body: str) -> onnx.ModelProto:
    """A model of which `m` is the mask."""
    proto = onnx.parser.parse_model(HEADER.replace("BODY", body))
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
    return proto


def asked(body: str, pattern: Pattern | None = None, queries: str = "keys") -> Meaning | None:
    """What `m` means at a site, by default of self-attention."""
    model: ir.Model = ir.from_proto(graph(body))
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lengths = Lengths(ir.SymbolicDim(queries), ir.SymbolicDim("keys"), frozenset({"batch", "keys", "queries"}))
    return meaning([model.graph.outputs[0]], pattern or Full(), lengths)


PROVEN: dict[str, tuple[str, Pattern, bool]] = {
    "where": ("m = Where (padding, zero, hides)", Full(), True),
    "times": ("f = Cast <to = 1> (attention_mask) g = Unsqueeze (f, a12) h = Sub (one, g) m = Mul (h, hides)", Full(), True),
    "times ten thousand": (
        "f = Cast <to = 1> (attention_mask) g = Unsqueeze (f, a12) h = Sub (one, g) m = Mul (h, strong)",
        Full(),
        True,
    ),
    "range": ("m = Where (causal, zero, inf)", Causal(), False),
    "trilu": (
        "s1 = Unsqueeze (length, z1) s2 = Concat <axis = 0> (s1, s1) ones = Expand (one, s2) t = Trilu <upper = 0> (ones) b = Cast <to = 9> (t) b4 = Unsqueeze (b, a01) m = Where (b4, zero, hides)",
        Causal(),
        False,
    ),
    "buffer": (
        "e = Unsqueeze (length, z1) ee = Concat <axis = 0> (e, e) t = Slice (triangle, zz, ee, a23) m = Where (t, zero, hides)",
        Causal(),
        False,
    ),
    "both": ("b = And (causal, padding) m = Where (b, zero, hides)", Causal(), True),
    "both added": ("a = Where (causal, zero, strong) b = Where (padding, zero, strong) m = Add (a, b)", Causal(), True),
    "window": (
        "gap = Sub (row, places) n = Less (gap, w20) w2 = And (causal2, n) b = Unsqueeze (w2, a01) m = Where (b, zero, inf)",
        SlidingWindow(19, 0),
        False,
    ),
    "wide window": (
        "gap = Sub (row, places) n = Less (gap, w512) w2 = And (causal2, n) b = Unsqueeze (w2, a01) m = Where (b, zero, inf)",
        SlidingWindow(511, 0),
        False,
    ),
    "two-sided window": (
        "gap = Sub (row, places) far = Abs (gap) n = LessOrEqual (far, i1) b = Unsqueeze (n, a01) m = Where (b, zero, inf)",
        SlidingWindow(1, 1),
        False,
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_a_mask_becomes_what_it_computes(name: str) -> None:
    body, pattern, padded = PROVEN[name]
    found = asked(body)
    assert found is not None
    assert found.pattern == pattern
    assert (found.padding.name if found.padding else None) == ("attention_mask" if padded else None)
    assert found.padded == 0


LEFT: dict[str, str] = {
    "strictly below the diagonal": "b2 = Less (places, row) b = Unsqueeze (b2, a01) m = Where (b, zero, hides)",
    "linear biases": "gap = Sub (row, places) f = Cast <to = 1> (gap) p = Mul (f, slope) m = Unsqueeze (p, a01)",
    "weak": "weak = Constant <value_float = -100.0> () m = Where (causal, zero, weak)",
    "given": "m = Identity (given)",
    "inverted padding": "n = Not (padding) m = Where (n, zero, hides)",
    "causal up to a hundred": (
        "late = GreaterOrEqual (row, hundred) seen = Or (causal2, late) b = Unsqueeze (seen, a01) m = Where (b, zero, inf)"
    ),
    "a window beyond what is tried": (
        "gap = Sub (row, places) n = Less (gap, w5000) w2 = And (causal2, n) b = Unsqueeze (w2, a01) m = Where (b, zero, inf)"
    ),
    "a prefix of the mask's length": (
        "sum = ReduceSum <keepdims = 1> (attention_mask, n1) p = Less (places, sum) b2 = Unsqueeze (p, i1s) b = Unsqueeze (b2, i1s) m = Where (b, zero, hides)"
    ),
    "of token ids, above a number": ("r = Greater (input_ids, pad) b = Unsqueeze (r, a12) m = Where (b, zero, hides)"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_proven_is_no_mask(name: str) -> None:
    feeds = {"attention_mask": np.ones((2, 6), dtype=np.int64), "input_ids": np.full((2, 6), 9)}
    floats = {"q": (2, 4, 6, 8), "given": (2, 1, 6, 6)}
    feeds |= {key: np.ones(shape, dtype=np.float32) for key, shape in floats.items()}
    (mask,) = ReferenceEvaluator(graph(LEFT[name])).run(None, feeds)  # it is a mask or bias, and runs
    assert np.broadcast_shapes(mask.shape, (2, 4, 6, 6)) == (2, 4, 6, 6)
    assert asked(LEFT[name]) is None


def test_token_ids_that_mean_padding_are_found() -> None:
    body = "same = Equal (input_ids, pad) r = Not (same) b = Unsqueeze (r, a12) m = Where (b, zero, hides)"
    found = asked(body)
    assert found is not None
    assert found.padding is not None
    assert (found.pattern, found.padding.name, found.padded) == (Full(), "input_ids", 7)


def test_the_pattern_that_a_site_has_already_counts() -> None:
    found = asked("m = Where (padding, zero, hides)", Causal())
    assert found is not None
    assert found.pattern == Causal()
    assert found.padding is not None


def test_the_diagonal_of_unequal_lengths_is_named() -> None:
    """Queries and keys are lengths of their own: the last query meets the last key."""
    body = """
        qs = Shape <start = 2, end = 3> (q) qn = Squeeze (qs) past = Sub (length, qn) own = Range (i0, qn, i1) at = Add (own, past)
        r = Unsqueeze (at, n1) c = LessOrEqual (places, r) b = Unsqueeze (c, a01) m = Where (b, zero, hides)
    """
    found = asked(body, queries="queries")
    assert found is not None
    assert found.pattern == Causal("lower_right")
