"""Rotary positions become one operator that gives the same numbers, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.passes.pipeline import finish
from edgeattn.exporters.passes.rotary import FuseRotary
from edgeattn.runtimes import registry

HEADS, SIZE = 3, 8


def _model(**changes: bool) -> ir.Model:
    """x (B, S, H D) -> its heads turned, (B, H, S, D), as a decoder's graph writes it; `changes` make it another function."""
    b = Builder()
    x = ir.val("x", ir.DataType.FLOAT, ["batch", "sequence", HEADS * SIZE])
    position = ir.val("position_ids", ir.DataType.FLOAT, ["batch", "sequence"])
    heads = b.transpose(b.reshape(x, 0, 0, HEADS, SIZE), 0, 2, 1, 3)
    size, inner = SIZE, heads
    if changes.get("partial"):
        size, inner = 4, b.op("Slice", heads, b.ints(0), b.ints(4), b.ints(3))
    half = size // 2
    steps = b.op("Constant", value=ir.tensor(np.array([1.0, 0.1, 0.01, 0.001][:half], dtype=np.float32)))
    angles = b.op("Mul", b.op("Unsqueeze", position, b.ints(2)), steps)
    other = b.op("Neg", angles) if changes.get("unequal_halves") else angles
    both = b.op("Concat", angles, other, axis=-1)
    scale = b.number(1.25)  # as rescaled positions have it
    cos, sin = (b.op("Unsqueeze", b.op("Mul", b.op(kind, both), scale), b.ints(1)) for kind in ("Cos", "Sin"))
    first, second = (0, half) if not changes.get("swapped") else (half, 0)
    left = b.op("Slice", inner, b.ints(second), b.ints(second + half), b.ints(3))
    right = b.op("Slice", inner, b.ints(first), b.ints(first + half), b.ints(3))
    rotated = b.op("Concat", left if changes.get("unsigned") else b.op("Neg", left), right, axis=3)
    turned = b.op("Add", b.op("Mul", inner, cos), b.op("Mul", rotated, sin))
    if changes.get("partial"):
        rest = b.op("Slice", heads, b.ints(4), b.ints(SIZE), b.ints(3))
        turned = b.op("Concat", turned, rest, axis=3)
    turned.name = "out"
    turned.type, turned.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", HEADS, "sequence", SIZE])
    graph = ir.Graph([x, position], [turned], nodes=b.nodes, opset_imports={"": 18}, name="rotary")
    model = ir.Model(graph, ir_version=IR_VERSION)
    finish(model)
    return model


def _run(model: ir.Model, path: Path) -> Any:
    ir.save(model, path)
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((2, 5, HEADS * SIZE)).astype(np.float32),
        "position_ids": np.array([[0, 1, 2, 3, 4], [0, 0, 0, 7, 8]], dtype=np.float32),  # rows differ: one is padded
    }
    with registry.get("onnxruntime").load(path) as session:
        return session.run(feeds)["out"]


def _operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("changes", [{}, {"partial": True}], ids=["whole", "partial"])
def test_it_is_one_operator_with_the_same_result(changes: dict[str, bool], tmp_path: Path) -> None:
    model = _model(**changes)
    before = _run(model, tmp_path / "before.onnx")
    assert FuseRotary()(model).modified
    finish(model)
    after = _run(model, tmp_path / "after.onnx")
    assert _operators(model).count("RotaryEmbedding") == 1
    assert "Neg" not in _operators(model)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_the_operator_takes_rows_as_the_projection_left_them() -> None:
    model = _model()
    FuseRotary()(model)
    finish(model)
    node = next(node for node in model.graph if node.op_type == "RotaryEmbedding")
    assert node.inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize("change", ["unequal_halves", "swapped", "unsigned"])
def test_what_only_looks_like_it_stays(change: str) -> None:
    model = _model(**{change: True})
    before = _operators(model)
    assert not FuseRotary()(model).modified
    assert _operators(model) == before
