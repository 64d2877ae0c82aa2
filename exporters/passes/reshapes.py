"""Remove data movement that undoes itself: what lowerings to (B, S, H * D) operators leave behind."""

from __future__ import annotations

import onnx_ir as ir


class CancelMovement(ir.passes.InPlacePass):
    """Two transposes that cancel vanish; a chain of reshapes that ends in the shape it began with vanishes.

    Requires shapes (run after shape inference); leaves dead nodes for the unused-node pass.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            source = _cancelled(node)
            if source is not None and not node.outputs[0].is_graph_output():
                ir.convenience.replace_all_uses_with(node.outputs[0], source)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _cancelled(node: ir.Node) -> ir.Value | None:
    """The earlier value that equals `node`'s output, if there is one."""
    if node.domain == "" and node.op_type == "Transpose":
        return _before_transposes(node)
    if node.domain == "" and node.op_type == "Reshape":
        return _before_reshapes(node)
    return None


def _before_transposes(node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    earlier = source.producer() if source is not None else None
    if earlier is None or earlier.op_type != "Transpose" or earlier.domain != "":
        return None
    first, second = (n.attributes["perm"].as_ints() for n in (earlier, node))
    return earlier.inputs[0] if [first[axis] for axis in second] == list(range(len(first))) else None


def _before_reshapes(node: ir.Node) -> ir.Value | None:
    shape, value = node.outputs[0].shape, node.inputs[0]
    while value is not None:
        if _same(shape, value.shape):
            return value
        producer = value.producer()
        if producer is None or producer.op_type != "Reshape" or producer.domain != "":
            return None
        value = producer.inputs[0]
    return None


def _same(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    """Equal in every axis, with no axis unknown."""
    if a is None or b is None or len(a) != len(b):
        return False
    keys = [[dim if isinstance(dim, int) else dim.value for dim in shape] for shape in (a, b)]
    return None not in keys[0] and keys[0] == keys[1]
