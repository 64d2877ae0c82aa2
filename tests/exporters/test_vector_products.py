"""A single query's attention has the same results whichever products it is computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.contrib import DOMAIN
from edgeattn.exporters.passes.vector_products import VectorProducts
from edgeattn.runtimes import registry

HEADS, KEYS, SIZE, PAST = 6, 2, 24, 300
SINK = 11


def _model(packed: bool = False, sinks: bool = False, int8: bool = False, size: Any = SIZE, **attributes: Any) -> ir.Model:
    """Attention of one token behind `PAST` others; `sinks` are an input."""
    cache = ir.DataType.INT8 if int8 else ir.DataType.FLOAT
    queries, new = HEADS * SIZE, KEYS * SIZE
    q = ir.val("q", ir.DataType.FLOAT, [1, 1, queries + 2 * new * packed])
    k, v = (None if packed else ir.val(name, ir.DataType.FLOAT, [1, 1, new]) for name in "kv")
    pasts = [ir.val(f"past_{name}", cache, [1, KEYS, PAST, size]) for name in "kv"]
    lengths = [ir.val("last", ir.DataType.INT32, [1]), ir.val("total", ir.DataType.INT32, [])]
    sink = ir.val("sinks", ir.DataType.FLOAT, [HEADS]) if sinks else None
    scales = [ir.val(f"scale_{name}", ir.DataType.FLOAT, [1, KEYS, 1, SIZE]) for name in "kv"] if int8 else []
    if int8:
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    given = [q, k, v, *pasts, *lengths, None, None, None, None, sink, *scales]
    b = Builder()
    outputs = b.ops("GroupQueryAttention", *given, outputs=3, domain=DOMAIN, num_heads=HEADS, kv_num_heads=KEYS, **attributes)
    for name, value, dtype in zip(("y", "present_k", "present_v"), outputs, (ir.DataType.FLOAT, cache, cache), strict=True):
        value.name, value.type = name, ir.TensorType(dtype)
        value.shape = ir.Shape([1, 1, queries] if name == "y" else [1, KEYS, PAST + 1, SIZE])
    inputs = [value for value in given if value is not None]
    graph = ir.Graph(inputs, outputs, nodes=b.nodes, opset_imports={"": 18, DOMAIN: 1}, name="attention")
    return ir.Model(graph, ir_version=IR_VERSION)


def _feeds(model: ir.Model, factor: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    fed: dict[str, Any] = {"last": np.array([PAST], np.int32), "total": np.array(PAST + 1, np.int32)}
    for value in model.graph.inputs:
        shape = [int(size) if isinstance(size, int) else SIZE for size in value.shape or ()]
        if value.dtype == ir.DataType.INT8:
            fed[str(value.name)] = rng.integers(-127, 128, shape, dtype=np.int8)
        elif value.dtype == ir.DataType.FLOAT:
            fed[str(value.name)] = rng.standard_normal(shape).astype(np.float32)
    fed["q"][..., : HEADS * SIZE] *= factor
    fed.update({name: 0.01 * np.abs(fed[name]) for name in fed if name.startswith("scale")})
    return fed


def _run(model: ir.Model, path: Path, factor: float) -> dict[str, Any]:
    ir.save(model, path)
    with registry.get("onnxruntime").load(path) as session:
        return session.run(_feeds(model, factor))


@pytest.mark.parametrize("factor", [1.0, 50.0], ids=["spread", "sharp"])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"scale": 0.3},
        {"packed": True},
        {"packed": True, "scale": 0.125},
        {"softcap": 5.0},
        {"local_window_size": 16},
        {"sinks": True},
        {"smooth_softmax": 1},
        {"int8": True},
        {"int8": True, "packed": True},
    ],
    ids=str,
)
def test_it_gives_the_same(form: dict[str, Any], factor: float, tmp_path: Path) -> None:
    model = _model(**form)
    before = _run(model, tmp_path / "before.onnx", factor)
    assert VectorProducts()(model).modified
    after = _run(model, tmp_path / "after.onnx", factor)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("form", [{}, {"scale": 0.3}, {"packed": True}, {"sinks": True}, {"smooth_softmax": 1}], ids=str)
def test_scores_need_no_scale_and_there_is_a_sink(form: dict[str, Any]) -> None:
    model = _model(**form)
    VectorProducts()(model)
    attention = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    assert attention.attributes["scale"].as_float() == 1.0
    sinks = attention.inputs[SINK]
    assert (sinks is None) == ("smooth_softmax" in form)  # which is a sink already
    if sinks is not None:
        assert sinks.is_graph_input() == ("sinks" in form)


def test_alike_layers_share_their_constants() -> None:
    model = _model()
    other = _model()
    attention = next(node for node in other.graph if node.op_type == "GroupQueryAttention")
    other.graph.remove(attention)
    for place, value in enumerate(attention.inputs):
        attention.replace_input_with(
            place, None if value is None else next(v for v in model.graph.inputs if v.name == value.name)
        )
    model.graph.append(attention)
    VectorProducts()(model)
    assert len(model.graph.initializers) == 2


def test_heads_of_unknown_size_stay() -> None:
    assert not VectorProducts()(_model(size="size")).modified


def test_attention_without_a_past_stays() -> None:
    model = _model()
    attention = next(iter(model.graph))
    for place in (3, 4):
        attention.replace_input_with(place, None)
    assert not VectorProducts()(model).modified
