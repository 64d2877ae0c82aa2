"""Einsum of two computed values as the MatMul that it is, with transposes around it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.raising.base import dim


def write_products(model: ir.Model) -> None:
    """Replace each `Einsum` of the main graph that is one batched product of two computed values, in place."""
    for node in [node for node in model.graph if node.op_type == "Einsum" and node.domain == ""]:
        b = Builder()
        product = _product(b, node)
        if product is None:
            continue
        old = node.outputs[0]
        product.name, product.shape, product.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, product, replace_graph_outputs=True)
        for count, new in enumerate(b.nodes):
            new.name = f"{node.name}_{count}"
            new.metadata_props.update(node.metadata_props)
        model.graph.insert_before(node, list(b.nodes))
        model.graph.remove(node, safe=True)


def _product(b: Builder, node: ir.Node) -> ir.Value | None:
    left, right = node.inputs if len(node.inputs) == 2 else (None, None)
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    first, _, second = terms.partition(",")
    if left is None or right is None or any(ir.convenience.get_const_tensor(x) is not None for x in (left, right)):
        return None
    if not result.isalpha() or any(not term.isalpha() or len(set(term)) != len(term) for term in (first, second, result)):
        return None
    batch = [x for x in result if x in first and x in second]
    rows, columns = ([x for x in term if x in result and x not in other] for term, other in ((first, second), (second, first)))
    inner = [x for x in first if x in second and x not in result]
    if not len(rows) == len(columns) == len(inner) == 1 or len(batch) > 2 or len({*first, *second}) != len(batch) + 3:
        return None
    if result.index(columns[0]) < result.index(rows[0]):
        (left, first, rows), (right, second, columns) = (right, second, columns), (left, first, rows)
    product = b.op(
        "MatMul", _ordered(b, left, first, [*batch, *rows, *inner]), _ordered(b, right, second, [*batch, *inner, *columns])
    )
    sizes = {letter: dim(value, axis) for value, term in ((left, first), (right, second)) for axis, letter in enumerate(term)}
    letters = [*batch, *rows, *columns]
    product.type, product.shape = left.type, ir.Shape([sizes[letter] for letter in letters])
    return _ordered(b, product, "".join(letters), list(result))


def _ordered(b: Builder, value: ir.Value, term: str, order: Sequence[str]) -> ir.Value:
    """The value with its axes, named by `term`, in the given order."""
    permutation = [term.index(letter) for letter in order]
    if permutation == sorted(permutation):
        return value
    moved = b.transpose(value, *permutation)
    moved.type = value.type
    if value.shape is not None:
        moved.shape = ir.Shape([value.shape[axis] for axis in permutation])
    return moved
