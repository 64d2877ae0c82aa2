"""A sum and its normalization become one operator that gives the same numbers, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.passes.skip_norm import AddAndNormalize
from edgeattn.runtimes import registry

WIDTH, EPSILON = 16, 1e-5


def _model(swapped: bool = False, axis: int = -1, power: float = 2.0, skip: Any = "sequence", bias: bool = False) -> ir.Model:
    """x + y, and its normalization with weights, twice read, as a decoder's graph writes it."""
    b = Builder()
    x = ir.val("x", ir.DataType.FLOAT, ["batch", "sequence", WIDTH])
    y = ir.val("y", ir.DataType.FLOAT, ["batch", skip, WIDTH])
    rng = np.random.default_rng(0)
    constants = {name: _constant(name, rng.random(WIDTH).astype(np.float32) + 0.5) for name in ("weight", "bias")}
    for name, number in (("power", power), ("epsilon", EPSILON)):
        constants[name] = _constant(name, np.array(number, dtype=np.float32))
    constants["axes"] = _constant("axes", np.array([axis]))
    total = b.op("Add", x, constants["bias"] if bias else y)
    total.shape, total.type, total.name = x.shape, x.type, "total"
    mean = b.op("ReduceMean", b.op("Pow", total, constants["power"]), constants["axes"], keepdims=1)
    divided = b.op("Div", total, b.op("Sqrt", b.op("Add", constants["epsilon"], mean)))
    operands = (divided, constants["weight"]) if swapped else (constants["weight"], divided)
    normed, kept = b.op("Mul", *operands), b.op("Neg", total)
    for name, value in (("normed", normed), ("kept", kept)):
        value.name, value.shape, value.type = name, x.shape, x.type
    graph = ir.Graph(
        [x, y], [normed, kept], nodes=b.nodes, initializers=list(constants.values()), opset_imports={"": 18}, name="norm"
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def _constant(name: str, array: Any) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def _run(model: ir.Model, path: Path) -> dict[str, Any]:
    ir.save(model, path)
    rng = np.random.default_rng(1)
    fed = {name: rng.standard_normal((2, 5, WIDTH)).astype(np.float32) for name in ("x", "y")}
    with registry.get("onnxruntime").load(path) as session:
        return session.run({info.name: fed[info.name] for info in session.inputs})


@pytest.mark.parametrize("changes", [{}, {"swapped": True}, {"axis": 2}], ids=str)
def test_it_is_one_operator_with_the_same_results(changes: dict[str, Any], tmp_path: Path) -> None:
    model = _model(**changes)
    before = _run(model, tmp_path / "before.onnx")
    assert AddAndNormalize()(model).modified
    common.RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph] == ["SkipSimplifiedLayerNormalization", "Neg"]
    after = _run(model, tmp_path / "after.onnx")
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"axis": 1}, {"power": 3.0}, {"skip": 1}, {"bias": True}], ids=["axis", "power", "broadcast", "bias"]
)
def test_anything_else_stays(changes: dict[str, Any]) -> None:
    model = _model(**changes)
    before = [node.op_type for node in model.graph]
    assert not AddAndNormalize()(model).modified
    assert [node.op_type for node in model.graph] == before
