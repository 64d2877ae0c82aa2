"""What a form writes, what it refuses and why, and the operators' own test data as an oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from edgeattn.errors import UsageError
from edgeattn.exporters.canonical import canonical_node, canonicalize
from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.contrib import MultiHeadAttention
from edgeattn.exporters.lowerings.decomposed import repeat_heads
from edgeattn.exporters.lowerings.registry import LOWERINGS, get
from edgeattn.exporters.probing import probe_model
from edgeattn.naive import softmax_attention
from edgeattn.spec import AttentionSpec, Causal, Full, SlidingWindow, SoftmaxAttention, function_name

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
