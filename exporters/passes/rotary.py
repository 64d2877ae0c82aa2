"""Write rotary positions as one operator: eight small ones for the queries and eight for the keys of each layer otherwise.

Su et al., "RoFormer", 2021 (https://arxiv.org/abs/2104.09864), in the form that turns the two halves of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgeattn.exporters.graph import Builder, both_orders

DOMAIN = "com.microsoft"
_ELEMENTWISE = {"Unsqueeze", "Cast", "Cos", "Sin"}


@dataclass(frozen=True, slots=True)
class _Turned:
    """x * cos + (-x2, x1) * sin, x (B, H, S, D) with halves x1, x2; cos and sin have equal halves, given by `cos`, `sin`."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value


class FuseRotary(ir.passes.InPlacePass):
    """x * cos + rotate_half(x) * sin becomes com.microsoft.RotaryEmbedding, with the angles' cosines and sines as its tables.

    Requires shapes. Leaves dead nodes for the unused-node pass.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            b = Builder(node.outputs[0].dtype or ir.DataType.FLOAT)
            turned = _turned(b, node)
            if turned is None:
                continue
            written = _written(b, turned)
            old = node.outputs[0]
            written.name, written.shape, written.type = old.name, old.shape, old.type
            for new in b.nodes:
                new.metadata_props.update(node.metadata_props)
            model.graph.insert_before(node, list(b.nodes))
            ir.convenience.replace_all_uses_with(old, written, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
            modified = True
        if modified:
            model.graph.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified=modified)


def _written(b: Builder, turned: _Turned) -> ir.Value:
    x = turned.x
    assert x.shape is not None
    heads, size = int(x.shape[1]), int(x.shape[3])  # type: ignore[arg-type]
    cos, sin = (b.reshape(table, -1, size // 2) for table in (turned.cos, turned.sin))
    rows = b.op("Squeeze", b.size(cos, 0))
    positions = b.op("Range", b.index(0), rows, b.index(1))
    positions = b.op("Reshape", positions, b.op("Concat", b.size(x, 0), b.size(x, 2), axis=0))

    def embed(value: ir.Value) -> ir.Value:
        return b.op("RotaryEmbedding", value, positions, cos, sin, domain=DOMAIN, num_heads=heads)

    producer = x.producer()
    if producer is None or producer.op_type != "Transpose":
        return embed(x)
    # heads side by side, as the projection left them: the model's own transposes then cancel
    turned_rows = embed(b.reshape(b.transpose(x, 0, 2, 1, 3), 0, 0, heads * size))
    turned_rows.type, turned_rows.shape = x.type, ir.Shape([x.shape[0], x.shape[2], heads * size])
    return b.transpose(b.reshape(turned_rows, 0, 0, heads, size), 0, 2, 1, 3)


def _turned(b: Builder, node: ir.Node) -> _Turned | None:
    if node.op_type != "Add" or node.domain:
        return None
    for plain, across in both_orders(node):
        for x, cos in _factors(plain):
            for rotated, sin in _factors(across):
                if _is_rotated(rotated, x) and _fits(cos, x) and _fits(sin, x):
                    half_cos, half_sin = _half(b, cos), _half(b, sin)
                    if half_cos is not None and half_sin is not None:
                        return _Turned(x, half_cos, half_sin)
    return None


def _factors(product: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    node = product.producer()
    if node is not None and node.op_type == "Mul" and not node.domain:
        yield from both_orders(node)


def _is_rotated(value: ir.Value, x: ir.Value) -> bool:
    """Whether `value` is (-x2, x1)."""
    node = value.producer()
    size = x.shape[3] if x.shape is not None and len(x.shape) == 4 else None
    if node is None or node.op_type != "Concat" or not isinstance(size, int) or len(node.inputs) != 2:
        return False
    negated, first = (part.producer() if part is not None else None for part in node.inputs)
    if negated is None or negated.op_type != "Neg" or node.attributes["axis"].as_int() not in (-1, 3):
        return False
    second = negated.inputs[0].producer() if negated.inputs[0] is not None else None
    half = size // 2
    return size % 2 == 0 and _slices(first, x, 0, half) and _slices(second, x, half, size)


def _slices(node: ir.Node | None, x: ir.Value, start: int, end: int) -> bool:
    """Whether `node` is x[..., start:end]; an end beyond the axis is the axis' own."""
    if node is None or node.op_type != "Slice" or node.inputs[0] is not x or len(node.inputs) < 4:
        return False
    constants = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None]
    numbers = [constant.numpy().reshape(-1).tolist() for constant in constants if constant is not None]
    if len(numbers) != len(node.inputs) - 1 or any(len(values) != 1 for values in numbers):
        return False
    first, last, axis, step = [values[0] for values in (*numbers, [1])][:4]
    assert x.shape is not None
    return bool(first == start and min(last, x.shape[3]) == end and axis in (3, -1) and step == 1)


def _fits(table: ir.Value, x: ir.Value) -> bool:
    """Whether a table has a row for every position of every row of x, the same for all heads."""
    if table.shape is None or len(table.shape) != 4:
        return False
    assert x.shape is not None
    return list(table.shape) == [x.shape[0], 1, x.shape[2], x.shape[3]]


def _half(b: Builder, value: ir.Value) -> ir.Value | None:
    """The first half of a value whose halves along the last axis are equal by construction; None where they are not."""
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
        last = value.shape is not None and node.attributes["axis"].as_int() in (-1, len(value.shape) - 1)
        return node.inputs[0] if last else None
    scaled = node.op_type == "Mul" and _is_scalar(node.inputs[1])
    if (node.op_type not in _ELEMENTWISE and not scaled) or node.inputs[0] is None:
        return None
    source = _half(b, node.inputs[0])
    if source is None:
        return None
    return b.op(
        node.op_type, source, *node.inputs[1:], **{name: attribute.value for name, attribute in node.attributes.items()}
    )


def _is_scalar(value: ir.Value | None) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and tensor.size == 1
