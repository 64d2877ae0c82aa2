"""Order the factors of an exact GELU as runtimes recognise it."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet


def _written(op: Any, x: Any, root: Any, one: Any, half: Any) -> Any:
    return op.Mul(x, op.Mul(half, op.Add(op.Erf(op.Div(x, root)), one)))


def _ordered(op: Any, x: Any, root: Any, one: Any, half: Any) -> Any:
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


def _is_gelu(_: Any, root: ir.Value, one: ir.Value, half: ir.Value, **__: Any) -> bool:
    wanted = ((root, math.sqrt(2)), (one, 1.0), (half, 0.5))
    return all(_scalar(value, number) for value, number in wanted)


def _scalar(value: ir.Value, number: float) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size == 1 and math.isclose(tensor.numpy().item(), number, rel_tol=1e-3)


class OrderGelu(ir.passes.InPlacePass):
    """x * (0.5 * (1 + erf(x / sqrt 2))), as torch's exporter writes it at opset 18, becomes (x * (1 + erf)) * 0.5.

    ONNX Runtime fuses only the second order; unfused, five elementwise passes over the widest tensor of a layer remain.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        rules = RewriteRuleSet([RewriteRule(_written, _ordered, _is_gelu, name="order_gelu")], commute=True)
        return ir.passes.PassResult(model, modified=rules.apply_to_model(model) > 0)
