"""FlexAttention, raised: modifier graphs that a spec says, and those that none says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.raising.pipeline import raise_attention
from edgeattn.exporters.sites import find_sites

Array = NDArray[Any]

FLEX = """
    <ir_version: 13, opset_import: ["" : 26, "ai.onnx.preview" : 1]>
    g (float[1, 2, 3, 4] q, float[1, 2, 5, 4] k, float[1, 2, 5, 4] v) => (float[1, 2, 3, 4] y) {{
        y = ai.onnx.preview.FlexAttention <{0} = mod (float[B, H, L, S] x) => (float[B, H, L, S] z) {{ {1} }}> (q, k, v)
    }}
"""


def _flex(attribute: str, body: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 2, length, 4), dtype=np.float32) for name, length in (("q", 3), ("k", 5), ("v", 5))}
    return onnx.parser.parse_model(FLEX.format(attribute, body)), feeds


def _raised(model: onnx.ModelProto) -> ir.Model:
    raised: ir.Model = ir.from_proto(model)
    raise_attention(raised)
    return raised


CONSTANTS = """
    n = Constant <value_float = -inf> ()
    seen = Constant <value = bool[3, 5] {1, 1, 0, 0, 0,  1, 1, 1, 1, 1,  1, 0, 1, 0, 0}> ()
"""


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("c = Constant <value_float = 2.0> () a = Div (x, c) t = Tanh (a) z = Mul (t, c)", {"softcap": 2.0}),
        (CONSTANTS + "z = Where (seen, x, n)", {"mask": "dense"}),
        ("s = Shape <start = -1> (x) f = Cast <to = 1> (s) z = Add (f, x)", {"bias": True}),
        (
            "c = Constant <value_float = 2.0> () a = Div (x, c) t = Tanh (a) u = Mul (c, t) w = Add (u, c) "
            + CONSTANTS
            + "z = Where (seen, w, n)",
            {"softcap": 2.0, "bias": True, "mask": "dense"},
        ),
    ],
)
def test_a_score_modifier_becomes_fields_of_the_spec(body: str, fields: dict[str, Any]) -> None:
    model, feeds = _flex("score_mod", body)
    raised = _raised(model)
    (got,) = ReferenceEvaluator(ir.to_proto(raised)).run(None, feeds)
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=5e-6)
    (site,) = find_sites(raised)
    assert {name: getattr(site.spec, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("attribute", "body", "message"),
    [
        ("score_mod", "z = Relu (x)", "score_mod has the step Relu; known are"),
        ("score_mod", "a = Relu (x) z = Add (x, a)", "is no chain of steps: 'x' is used by 2 nodes"),
        ("score_mod", CONSTANTS + "z = Where (seen, n, x)", "score_mod has the step Where"),
        ("prob_mod", "z = Relu (x)", "known is one Mul by a number"),
    ],
)
def test_a_modifier_that_no_spec_says_is_refused(attribute: str, body: str, message: str) -> None:
    with pytest.raises(RaisingError, match=message):
        _raised(_flex(attribute, body)[0])
