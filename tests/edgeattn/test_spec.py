"""AttentionSpec: nonsense cannot be built, JSON comes back, one operator name per distinct spec."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.errors import SpecError
from edgeattn.spec import (
    AttentionSpec,
    BlockSparse,
    Causal,
    Dilated,
    Entmax15,
    Fixed,
    Full,
    GlobalLocal,
    Normalizer,
    Pattern,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    Softmax,
    SoftmaxAttention,
    Sparsemax,
    Strided,
    TopK,
    from_dict,
    from_json,
    function_name,
    to_dict,
    to_json,
)

alignments = st.sampled_from(["upper_left", "lower_right"])
sizes = st.integers(0, 5000)
patterns: st.SearchStrategy[Pattern] = st.one_of(
    st.just(Full()),
    st.builds(Causal, alignments),
    st.builds(SlidingWindow, sizes, sizes | st.none(), alignments),
    st.builds(SlidingWindow, st.none(), sizes.filter(bool), alignments),
    st.just(PrefixLM()),
    st.builds(Dilated, sizes, sizes, st.integers(2, 9)),
    st.builds(GlobalLocal, sizes, st.just(0), st.integers(1, 9), st.booleans()),
    st.builds(Strided, st.integers(1, 99)),
    st.builds(Fixed, st.integers(4, 99), st.integers(1, 4)),
    st.builds(BlockSparse, st.integers(1, 99), st.sampled_from([(("1",),), (("10", "11"),)]), st.booleans()),
)
positive = st.floats(1e-6, 1e6)
normalizers: st.SearchStrategy[Normalizer] = st.one_of(
    st.just(Softmax()),
    st.builds(Sigmoid, st.none() | st.floats(-9, 9)),
    st.just(Sparsemax()),
    st.just(Entmax15()),
    st.builds(TopK, st.integers(1, 99)),
)


@st.composite
def specs(draw: st.DrawFn) -> AttentionSpec:
    kv_heads = draw(st.integers(1, 8))
    normalizer = draw(normalizers)
    return SoftmaxAttention(
        q_heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 256)),
        value_head_dim=draw(st.integers(0, 256)),
        scale=draw(st.just(0.0) | positive),
        pattern=draw(patterns),
        softcap=draw(st.none() | positive),
        mask=draw(st.sampled_from(["none", "key_padding", "dense", "document"])),
        bias=draw(st.booleans()),
        sink=isinstance(normalizer, Softmax) and draw(st.booleans()),
        score=draw(st.sampled_from(["dot", "additive"])),
        normalizer=normalizer,
    )


@given(specs())
def test_json_comes_back(spec: AttentionSpec) -> None:
    assert from_json(to_json(spec)) == spec
    assert from_dict(json.loads(json.dumps(to_dict(spec)))) == spec
    assert to_json(from_json(to_json(spec))) == to_json(spec)


@given(specs(), specs())
def test_equal_specs_have_equal_names_and_others_do_not(one: AttentionSpec, other: AttentionSpec) -> None:
    assert (function_name(one) == function_name(other)) == (one == other)
    assert function_name(one) == function_name(dataclasses.replace(one))


@given(specs())
def test_name_is_a_legal_operator_name(spec: AttentionSpec) -> None:
    assert function_name(spec).replace("_", "").isalnum()
    assert spec.summary()


def test_name_does_not_change_between_releases() -> None:
    # Bundles written today are read by later releases: a change here needs a new bundle format.
    spec = SoftmaxAttention(4, 2, 8, pattern=SlidingWindow(3, 0), softcap=30.0, mask="key_padding")
    assert function_name(spec) == "Attention_3fb77624"
    assert to_json(spec) == (
        '{"bias":false,"head_dim":8,"kv_heads":2,"mask":"key_padding","pattern":{"alignment":"upper_left","left":3,"right":0,'
        '"type":"sliding_window"},"q_heads":4,"scale":0.35355339059327373,"softcap":30.0,"type":"softmax","value_head_dim":8}'
    )


def test_later_fields_are_written_where_they_differ() -> None:
    later = {"sink", "score", "normalizer"}
    assert not later & set(to_dict(SoftmaxAttention(4, 2, 8)))
    assert to_dict(SoftmaxAttention(4, 2, 8, sink=True))["sink"] is True
    written = to_dict(SoftmaxAttention(4, 2, 8, score="additive", normalizer=TopK(3)))
    assert later & set(written) == {"score", "normalizer"}
    assert written["normalizer"] == {"type": "top_k", "k": 3}
    assert from_dict(written | {"sink": False}) == from_dict(written)


def test_names_of_later_fields_do_not_change_between_releases() -> None:
    spec = SoftmaxAttention(2, 2, 4, pattern=BlockSparse(2, (("10", "11"),)), normalizer=Sigmoid(-1), score="additive")
    assert to_json(spec) == (
        '{"bias":false,"head_dim":4,"kv_heads":2,"mask":"none","normalizer":{"offset":-1.0,"type":"sigmoid"},'
        '"pattern":{"block":2,"causal":false,"layout":[["10","11"]],"type":"block_sparse"},"q_heads":2,"scale":1.0,'
        '"score":"additive","softcap":null,"type":"softmax","value_head_dim":4}'
    )


def test_name_does_not_depend_on_how_a_number_was_written() -> None:
    whole = SoftmaxAttention(2, 2, 4, scale=2, softcap=30)
    assert whole == SoftmaxAttention(2, 2, 4, scale=2.0, softcap=30.0)
    assert function_name(whole) == function_name(SoftmaxAttention(2, 2, 4, scale=2.0, softcap=30.0))
    zeros = [SoftmaxAttention(2, 2, 4, normalizer=Sigmoid(zero)) for zero in (0, 0.0, -0.0)]
    assert len(set(zeros)) == len({function_name(spec) for spec in zeros}) == 1


def test_defaults_are_stored_as_values() -> None:
    spec = SoftmaxAttention(2, 2, 16)
    assert spec.value_head_dim == 16
    assert spec.scale == 0.25
    assert spec == SoftmaxAttention(2, 2, 16, value_head_dim=16, scale=0.25)
    assert SoftmaxAttention(2, 2, 16, score="additive").scale == 1.0


def test_group_and_input_names() -> None:
    spec = SoftmaxAttention(6, 2, 4, mask="dense", bias=True)
    assert spec.group == 3
    assert spec.input_names == ("q", "k", "v", "mask", "bias")
    assert SoftmaxAttention(6, 2, 4).input_names == ("q", "k", "v")
    every = SoftmaxAttention(6, 2, 4, mask="document", bias=True, sink=True, score="additive", pattern=PrefixLM())
    assert every.input_names == ("q", "k", "v", "mask", "bias", "sink", "score_weight", "prefix")
    assert SoftmaxAttention(6, 2, 4, pattern=PrefixLM(), sink=True).input_names == ("q", "k", "v", "sink", "prefix")


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"mask": "document", "bias": True, "pattern": PrefixLM(), "softcap": 2.0}, True),
        ({"sink": True}, False),
        ({"score": "additive"}, False),
        ({"normalizer": TopK(2)}, False),
    ],
)
def test_plain_is_what_fused_operators_know(change: dict[str, Any], plain: bool) -> None:
    assert SoftmaxAttention(4, 2, 8, **change).plain == plain


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (SoftmaxAttention(12, 12, 32, mask="key_padding"), "12 heads x 32, key_padding mask"),
        (SoftmaxAttention(1, 1, 64), "1 head x 64"),
        (SoftmaxAttention(9, 3, 64, pattern=Causal("lower_right")), "9q/3kv heads x 64, causal lower_right"),
        (SoftmaxAttention(2, 2, 4, 8, scale=1.0, softcap=30.0, bias=True), "2 heads x 4/8, scale 1, softcap 30, bias"),
        (SoftmaxAttention(2, 2, 4, pattern=SlidingWindow(127, 0)), "2 heads x 4, window [127, 0]"),
        (SoftmaxAttention(2, 2, 4, pattern=PrefixLM(), mask="document"), "2 heads x 4, prefix-LM, document mask"),
        (SoftmaxAttention(2, 2, 4, bias=True, sink=True), "2 heads x 4, bias, sink"),
        (SoftmaxAttention(2, 2, 4, score="additive"), "2 heads x 4, additive score"),
        (SoftmaxAttention(2, 2, 4, score="additive", scale=0.5), "2 heads x 4, additive score, scale 0.5"),
        (SoftmaxAttention(2, 2, 4, normalizer=Sigmoid()), "2 heads x 4, sigmoid"),
        (SoftmaxAttention(2, 2, 4, normalizer=Sigmoid(-2)), "2 heads x 4, sigmoid, offset -2"),
        (SoftmaxAttention(2, 2, 4, normalizer=Sparsemax()), "2 heads x 4, sparsemax"),
        (SoftmaxAttention(2, 2, 4, normalizer=Entmax15()), "2 heads x 4, entmax-1.5"),
        (SoftmaxAttention(2, 2, 4, normalizer=TopK(8)), "2 heads x 4, top-8"),
        (SoftmaxAttention(2, 2, 4, normalizer=TopK(1)), "2 heads x 4, argmax"),
    ],
)
def test_summary(spec: AttentionSpec, text: str) -> None:
    assert spec.summary() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_heads": 0}, "q_heads must be a whole number >= 1, got 0"),
        ({"q_heads": 4.0}, r"q_heads must be a whole number >= 1, got 4\.0"),
        ({"q_heads": True}, "q_heads must be a whole number >= 1, got True"),
        ({"kv_heads": -1}, "kv_heads must be a whole number >= 1, got -1"),
        ({"kv_heads": 3}, r"q_heads \(4\) must be a multiple of kv_heads \(3\)"),
        ({"kv_heads": 8}, r"q_heads \(4\) must be a multiple of kv_heads \(8\)"),
        ({"head_dim": "8"}, "head_dim must be a whole number >= 1, got '8'"),
        ({"value_head_dim": -2}, "value_head_dim must be a whole number >= 1, got -2"),
        ({"scale": -1.0}, r"scale must be a finite number > 0, got -1\.0"),
        ({"scale": math.inf}, "scale must be a finite number > 0, got inf"),
        ({"scale": math.nan}, "scale must be a finite number > 0, got nan"),
        ({"scale": 10**400}, "scale must be a finite number > 0, got 1000"),
        ({"scale": "1"}, "scale must be a finite number > 0, got '1'"),
        ({"softcap": 0.0}, r"softcap must be a finite number > 0, got 0\.0"),
        ({"softcap": True}, "softcap must be a finite number > 0, got True"),
        ({"pattern": "causal"}, "pattern must be one of Full, Causal, .*, BlockSparse, got 'causal'"),
        ({"mask": "padding"}, "mask must be one of none, key_padding, dense, document, got 'padding'"),
        ({"mask": None}, "mask must be one of none, key_padding, dense, document, got None"),
        ({"mask": []}, r"mask must be one of none, key_padding, dense, document, got \[\]"),
        ({"bias": 1}, "bias must be True or False, got 1"),
        ({"sink": None}, "sink must be True or False, got None"),
        ({"score": "cosine"}, "score must be one of dot, additive, got 'cosine'"),
        ({"normalizer": "softmax"}, "normalizer must be one of Softmax, Sigmoid, Sparsemax, Entmax15, TopK, got 'softmax'"),
        ({"normalizer": TopK}, "normalizer must be one of Softmax, .*, TopK, got <class"),
        ({"sink": True, "normalizer": Sigmoid()}, "a sink takes its share of a softmax's sum; sigmoid has no such sum"),
        ({"sink": True, "normalizer": TopK(4)}, "a sink takes its share of a softmax's sum; top-4 has no such sum"),
        ({"pattern": BlockSparse(1, (("1",),) * 2)}, r"layout has 2 tables; expected 1 for all heads, or q_heads \(4\)"),
    ],
)
def test_specs_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"q_heads": 4, "kv_heads": 2, "head_dim": 8}
    with pytest.raises(SpecError, match=message):
        SoftmaxAttention(**(fields | change))


GOOD = to_dict(SoftmaxAttention(4, 2, 8, pattern=SlidingWindow(3, 0), sink=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "expected an attention spec of type 'softmax', got None"),
        ({**GOOD, "type": "linear"}, "expected an attention spec of type 'softmax'"),
        ({**GOOD, "dropout": 0.1}, "SoftmaxAttention: .*unexpected keyword argument 'dropout'"),
        ({"type": "softmax", "q_heads": 1}, "SoftmaxAttention: .*missing 2 required positional arguments"),
        ({**GOOD, "pattern": "full"}, "expected a pattern of type full, causal, .*, block_sparse, got 'full'"),
        ({**GOOD, "pattern": {"type": "random"}}, "expected a pattern of type full, causal, "),
        ({**GOOD, "pattern": {"type": "dilated"}}, "Dilated: .*missing 3 required positional arguments"),
        ({**GOOD, "pattern": {"type": ["full"]}}, "expected a pattern of type full, causal, "),
        ({**GOOD, "pattern": {"type": "full", "left": 1}}, "Full: .*"),
        (
            {**GOOD, "normalizer": "softmax"},
            "expected a normalizer of type softmax, sigmoid, sparsemax, entmax15, top_k, got 's",
        ),
        ({**GOOD, "normalizer": {"type": "top_k"}}, "TopK: .*missing 1 required positional argument: 'k'"),
        ({**GOOD, "normalizer": {"type": "top_k", "k": 0}}, r"TopK\.k must be a whole number >= 1, got 0"),
        ({**GOOD, "normalizer": {"type": "sigmoid", "offset": math.inf}}, r"Sigmoid\.offset must be a finite number, got inf"),
        ({**GOOD, "kv_heads": None}, "kv_heads must be a whole number >= 1, got None"),
    ],
)
def test_dicts_that_are_no_spec(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"softmax"', "{'type': 'softmax'}", "[" * 100_000, "9" * 5000])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError):
        from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*sorted(GOOD), "score", "normalizer"]), json_values)
def test_any_value_in_any_field_is_a_spec_or_a_spec_error(field: str, value: Any) -> None:
    try:
        spec = from_dict({**GOOD, field: value})
    except SpecError:
        return
    assert from_json(to_json(spec)) == spec


def test_specs_are_frozen_and_hashable() -> None:
    spec = SoftmaxAttention(4, 2, 8)
    assert len({spec, SoftmaxAttention(4, 2, 8)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.q_heads = 2  # type: ignore[misc]


def test_spec_and_naive_need_no_torch() -> None:
    code = "import sys, edgeattn.spec, edgeattn.naive; print(*{'torch', 'onnx', 'edgeattn.models'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
