"""The standard's own test cases of attention, raised, lowered, and run: every one that a spec can say is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeattn.exporters.conformance import Result, Verdict, cases, run_bare, run_ours, totals
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry

INEXPRESSIBLE = {
    "test_flexattention_double": "float64 operands: forms are proven in float32, and a cast to it would lose",
}
"""Cases without a canonical form, and why. This list may only shrink."""

SILENTLY_WRONG = (
    "test_attention_3d_local_window",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    "test_attention_bidirectional_window",
    "test_attention_local_window_ext_cache_rank3_head_mask",
    "test_attention_local_window_gqa_rank4_mask",
    "test_attention_local_window_rank1_boolean_mask",
    "test_attention_local_window_with_past",
)
"""What runtimes have been seen to answer with wrong numbers and no error, when given the operator as it is."""

_NAMES = tuple(cases())
QUICK = {*_NAMES[::8], *SILENTLY_WRONG, *INEXPRESSIBLE}


@pytest.fixture(scope="module")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Prover:
    return Prover(tmp_path_factory.mktemp("probes"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name.removeprefix("test_")) for name in _NAMES],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_case_passes_through_our_lowerings(runtime: str, name: str, prover: Prover, tmp_path: Path) -> None:
    verdict = run_ours(cases()[name], registry.get(runtime), prover, tmp_path)
    if name in INEXPRESSIBLE:
        assert verdict.status == "inexpressible", f"{name} works now: take it off the list ({INEXPRESSIBLE[name]})"
    else:
        assert verdict.status == "pass", f"{verdict.lowering}: {verdict.reason}"


def test_every_case_is_there() -> None:
    """93 + 11 + 8 in onnx 1.23; a case that goes missing would otherwise pass unseen."""
    found = [case.operator for case in cases().values()]
    assert {operator: found.count(operator) for operator in set(found)} == {
        "Attention": 93,
        "FlexAttention": 11,
        "RotaryEmbedding": 8,
    }
    assert {*SILENTLY_WRONG, *INEXPRESSIBLE} <= set(_NAMES)


def test_a_wrong_number_is_told_from_an_error(tmp_path: Path) -> None:
    """The verdicts that the tables are made of, each from a case that must end so."""
    ort = registry.get("onnxruntime")
    plain, flex = cases()["test_attention_4d"], cases()["test_flexattention"]
    assert run_bare(plain, ort, tmp_path) == Verdict("pass")
    moved = dataclasses.replace(plain, outputs={"Y": plain.outputs["Y"] * np.float32(1.002)})
    wrong, error = run_bare(moved, ort, tmp_path), run_bare(flex, ort, tmp_path)
    assert (wrong.status, error.status) == ("wrong", "error")
    assert "Y Mismatched elements" in wrong.reason
    assert "FlexAttention" in error.reason


def test_totals_count_each_way_by_itself() -> None:
    good, bad = Verdict("pass", lowering="grouped"), Verdict("wrong", "Y")
    rows = [
        Result("a", "Attention", "onnxruntime", good, good),
        Result("b", "Attention", "onnxruntime", good, bad),
        Result("c", "RotaryEmbedding", "onnxruntime", good, bad),
        Result("a", "Attention", "openvino", bad, good),
    ]
    counted = [(row.runtime, row.operator, row.cases, dict(row.ours), dict(row.bare)) for row in totals(rows)]
    assert counted == [
        ("onnxruntime", "Attention", 2, {"pass": 2}, {"pass": 1, "wrong": 1}),
        ("onnxruntime", "RotaryEmbedding", 1, {"pass": 1}, {"wrong": 1}),
        ("openvino", "Attention", 1, {"wrong": 1}, {"pass": 1}),
    ]
