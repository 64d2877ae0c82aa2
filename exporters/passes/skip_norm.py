"""Write a sum and its root-mean-square normalization as one operator of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder, both_orders
from edgeattn.exporters.lowerings.contrib import DOMAIN


class AddAndNormalize(ir.passes.InPlacePass):
    """(x + y) / sqrt(mean((x + y)^2) + eps) * weight becomes com.microsoft.SkipSimplifiedLayerNormalization, which gives the sum
    too: of rows as short as a single token's, an operator costs more to call than to compute.

    Requires shapes: x and y are (B, S, I) alike. Leaves dead nodes for the unused-node pass.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            found = next(_normalized(node), None)
            if found is None:
                continue
            total, weight, epsilon = found
            b = Builder()
            add = total.producer()
            assert add is not None
            written, _, _, summed = b.ops(
                "SkipSimplifiedLayerNormalization", *add.inputs, weight, outputs=4, domain=DOMAIN, epsilon=epsilon
            )
            model.graph.insert_after(add, list(b.nodes))
            for old, new in ((node.outputs[0], written), (total, summed)):
                new.name, new.shape, new.type = old.name, old.shape, old.type
                ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            modified = True
        if modified:
            model.graph.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified=modified)


def _normalized(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, float]]:
    """The sum, the weights and the epsilon of a normalization that ends in `node`."""
    for weight, scaled in _orders(node, "Mul"):
        divided = _producer(scaled, "Div")
        if divided is None or not weight.is_initializer() or weight.shape is None or len(weight.shape) != 1:
            continue
        total, root = divided.inputs
        shifted = _producer(_first(_producer(root, "Sqrt")), "Add")
        for mean, epsilon in _orders(shifted, "Add"):
            small = _number(epsilon)
            if total is not None and small is not None and _is_mean_square(mean, total) and _is_sum(total, weight):
                yield total, weight, small


def _is_mean_square(value: ir.Value, x: ir.Value) -> bool:
    """Over the last axis, which stays."""
    mean = _producer(value, "ReduceMean")
    square = _producer(_first(mean), "Pow")
    if mean is None or square is None or square.inputs[0] is not x or _number(square.inputs[1]) != 2.0:
        return False
    axes = ir.convenience.get_const_tensor(mean.inputs[1]) if len(mean.inputs) > 1 and mean.inputs[1] is not None else None
    kept = mean.attributes.get("keepdims")
    return axes is not None and axes.numpy().tolist() in ([-1], [2]) and (kept is None or kept.as_int() == 1)


def _is_sum(value: ir.Value, weight: ir.Value) -> bool:
    """Whether it is one of two (B, S, I), I as many as weights, that nothing else than nodes reads."""
    add = _producer(value, "Add")
    if add is None or value.is_graph_output():
        return False
    shapes = [part.shape for part in add.inputs if part is not None and not part.is_initializer()]
    first = shapes[0] if len(shapes) == 2 else None
    return (
        first is not None
        and len(first) == 3
        and first == shapes[1]
        and weight.shape is not None
        and first[2] == weight.shape[0]
    )


def _orders(node: ir.Node | None, op_type: str) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two operands of `node`, if it is such an operator, in both orders."""
    if node is not None and node.op_type == op_type and not node.domain:
        yield from both_orders(node)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _first(node: ir.Node | None) -> ir.Value | None:
    return node.inputs[0] if node is not None else None


def _number(value: ir.Value | None) -> float | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(np.asarray(tensor.numpy()).reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None
