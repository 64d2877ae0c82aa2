"""Products of one input as one, in a model of OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from edgeattn.exporters.quantize.openvino_merging import merge_products

WIDTHS = {"q": 96, "k": 64, "v": 64}


def model(turned: bool) -> ov.Model:
    """x -> q, k, v; z = q out; and a product whose weights another one reads too."""
    rng = np.random.default_rng(0)

    def weight(name: str, rows: int, columns: int) -> Any:
        matrix = rng.normal(size=(rows, columns)).astype(np.float32)
        return opset13.constant(np.ascontiguousarray(matrix.T) if turned else matrix, name=name)

    def product(value: Any, matrix: Any, name: str) -> Any:
        node = opset13.matmul(value, matrix, False, turned, name=name)
        node.output(0).set_names({name})
        return node

    x = opset13.parameter(ov.PartialShape([1, -1, 64]), np.float32, name="x")
    found = {name: product(x, weight(f"W{name}", 64, width), name) for name, width in WIDTHS.items()}
    found["z"] = product(found["q"], weight("Wz", 96, 64), "z")
    shared = weight("Wshared", 64, 64)
    found["s"], found["t"] = product(x, shared, "s"), product(found["z"], shared, "t")
    return ov.Model([opset13.result(found[name].output(0)) for name in ("k", "v", "s", "t")], [x])


def run(made: ov.Model) -> list[np.ndarray]:
    compiled = ov.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([np.random.default_rng(1).normal(size=(1, 3, 64)).astype(np.float32)])
    return [results[index] for index in range(4)]


@pytest.mark.parametrize("turned", [False, True])
def test_those_of_one_input_are_one_and_the_others_stay(turned: bool) -> None:
    made = model(turned)
    before = run(made)
    merge_products(made)
    products = [node.get_friendly_name() for node in made.get_ordered_ops() if node.get_type_name() == "MatMul"]
    assert sorted(sorted(name.split("+")) for name in products) == [["k", "q", "v"], ["s"], ["t"], ["z"]]
    assert [port.get_names() for port in made.outputs] == [{"k"}, {"v"}, {"s"}, {"t"}]
    for got, expected in zip(run(made), before, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
