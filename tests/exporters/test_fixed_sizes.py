"""Every form of attention at literal sizes: no symbol left, no arithmetic on sizes, and still the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeattn.errors import CaptureError
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import WHOLE
from edgeattn.exporters.passes.fixed_sizes import LARGEST, check_fixed, fix_sizes
from edgeattn.exporters.probing import Prover, probe_model, probe_size
from edgeattn.normalizers import Entmax15, TopK
from edgeattn.runtimes import registry
from edgeattn.spec import (
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    GlobalLocal,
    PrefixLM,
    SlidingWindow,
    SoftmaxAttention,
)

SPECS = {
    "full": SoftmaxAttention(4, 4, 8),
    "padding": SoftmaxAttention(4, 4, 8, mask="key_padding"),
    "causal": SoftmaxAttention(4, 4, 8, pattern=Causal()),
    "causal padding": SoftmaxAttention(4, 2, 8, pattern=Causal(), mask="key_padding"),
    "grouped": SoftmaxAttention(6, 2, 8),
    "window": SoftmaxAttention(4, 4, 8, pattern=SlidingWindow(5, 2), mask="key_padding"),
    "dilated": SoftmaxAttention(4, 4, 8, pattern=Dilated(3, 0, 2)),
    "global": SoftmaxAttention(4, 4, 8, pattern=GlobalLocal(4, 4, 2)),
    "blocks": SoftmaxAttention(
        4, 4, 8, pattern=BlockSparse(16, (("100000", "110000", "101000", "100100", "111111", "100011"),))
    ),
    "fixed": SoftmaxAttention(4, 4, 8, pattern=Fixed(8, 2)),
    "prefix": SoftmaxAttention(4, 4, 8, pattern=PrefixLM()),
    "bias": SoftmaxAttention(4, 4, 8, bias=True),
    "dense": SoftmaxAttention(4, 4, 8, mask="dense"),
    "sink": SoftmaxAttention(4, 4, 8, sink=True),
    "top_k": SoftmaxAttention(4, 4, 8, normalizer=TopK(3)),
    "entmax": SoftmaxAttention(4, 4, 8, normalizer=Entmax15()),
}
SMALL, LARGE = (2, 9, 9), (1, 65, 65)
CASES = [
    (form, name)
    for name, spec in SPECS.items()
    for form, lowering in WHOLE.items()
    if lowering.accepts(Core(spec, square=True, size=SMALL)) is None
]


def test_every_form_takes_part() -> None:
    assert {form for form, _ in CASES} == set(WHOLE)  # no cache has one size


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_form_at_literal_sizes_is_the_formula(form: str, name: str, size: tuple[int, int, int], tmp_path: Path) -> None:
    core = Core(SPECS[name], square=True, max_keys=size[2], size=size)
    model = probe_model(WHOLE[form], core)
    check_fixed(model)
    assert {node.op_type for node in model.graph} & {"Shape", "Range", "ConstantOfShape"} == set()
    result = Prover(tmp_path).prove(WHOLE[form], core, registry.get("onnxruntime"), "cpu")
    assert result.passed, result.reason


def test_weights_in_a_file_stay_there(tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, ir.Shape(["n", 64]))
    weight = ir.val("w", ir.DataType.FLOAT, ir.Shape([64, 64]), const_value=ir.tensor(np.ones((64, 64), np.float32), name="w"))
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, turned.outputs[0]])
    rows = ir.node("Shape", [product.outputs[0]], {"start": 0, "end": 1})
    product.outputs[0].name, rows.outputs[0].name = "y", "rows"
    for value, rows_of in ((product.outputs[0], "n"), (turned.outputs[0], 64)):
        value.shape, value.type = ir.Shape([rows_of, 64]), ir.TensorType(ir.DataType.FLOAT)
    rows.outputs[0].shape, rows.outputs[0].type = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
    nodes = [turned, product, rows]
    graph = ir.Graph([x], [product.outputs[0], rows.outputs[0]], nodes=nodes, initializers=[weight], opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    ir.external_data.unload_from_model(model, tmp_path, "w.bin", size_threshold_bytes=100)
    fixed = fix_sizes(model, {"n": 7})
    check_fixed(fixed)
    assert isinstance(fixed.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert "Transpose" in [node.op_type for node in fixed.graph]
    assert [node.op_type for node in graph] == ["Transpose", "MatMul", "Shape"]
    assert [value.name for value in fixed.graph.outputs] == ["y", "rows"]
    assert fixed.graph.outputs[0].shape == (7, 64)


def test_what_depends_on_values_is_named() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ir.Shape(["n"]))
    found = ir.node("NonZero", [x], name="where_it_is")
    found.outputs[0].name = "places"
    found.outputs[0].type, found.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1, "u0"])
    model = ir.Model(ir.Graph([x], found.outputs, nodes=[found], opset_imports={"": 18}), ir_version=10)
    with pytest.raises(CaptureError, match="NonZero 'where_it_is'"):
        check_fixed(fix_sizes(model, {"n": 7}))


def test_large_masks_are_not_stored() -> None:
    core = Core(SPECS["causal"], square=True, size=(1, 1024, 1024))
    stored = probe_model(WHOLE["decomposed"], core).graph.initializers.values()
    assert max(value.const_value.size for value in stored if value.const_value is not None) == LARGEST
    wider = replace(core, size=(1, 1025, 1025))
    assert probe_size(wider) == (1, 1024, 1024)
