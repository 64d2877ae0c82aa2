"""Key and value heads that a file repeats for groups of queries, given to the site once."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgeattn.exporters.canonical import CAPTURED_OP, SPEC_ATTRIBUTE
from edgeattn.exporters.raising.base import dim, dims
from edgeattn.exporters.sites import DOMAIN
from edgeattn.spec import from_json, to_json


def share_heads(model: ir.Model) -> None:
    """Take captured nodes' keys and values from before they were repeated, in place. Requires shapes."""
    for node in model.graph:
        if node.domain != DOMAIN or node.op_type != CAPTURED_OP:
            continue
        spec = from_json(node.attributes[SPEC_ATTRIBUTE].as_string())
        given = node.inputs[1:3]
        before = [None if value is None else once(value, spec.q_heads) for value in given]
        heads = {dim(value, 1) for value in before if value is not None}
        if len(heads) == 1 and isinstance(kv_heads := heads.pop(), int) and kv_heads < spec.kv_heads:
            node.attributes[SPEC_ATTRIBUTE] = ir.AttrString(
                SPEC_ATTRIBUTE, to_json(dataclasses.replace(spec, kv_heads=kv_heads))
            )
            for index, value in enumerate(before, start=1):
                node.replace_input_with(index, value)


def once(value: ir.Value, heads: int) -> ir.Value:
    """(B, H, T, D) -> (B, K, T, D) where each head was repeated (Unsqueeze, Expand, Reshape); else as it is."""
    reshape = value.producer()
    expand = _producer(reshape, "Reshape", "Expand")
    unsqueeze = _producer(expand, "Expand", "Unsqueeze")
    before = unsqueeze.inputs[0] if unsqueeze is not None else None
    if expand is None or before is None or any(x.shape is None for x in (before, expand.outputs[0], value)):
        return value
    small, wide, out = dims(before), dims(expand.outputs[0]), dims(value)
    if len(small) != 4 or len(wide) != 5 or len(out) != 4:
        return value
    kv_heads, group = small[1], wide[2]
    whole = isinstance(kv_heads, int) and isinstance(group, int) and kv_heads * group == heads == out[1]
    unsqueezed = dims(unsqueeze.outputs[0]) if unsqueeze is not None else []
    grouped = unsqueezed == [*small[:2], 1, *small[2:]] and wide[:2] == small[:2] and wide[3:] == small[2:]
    kept = [out[0], *out[2:]] == [small[0], *small[2:]]
    return before if whole and grouped and kept and None not in wide else value


def _producer(node: ir.Node | None, op_type: str, before: str) -> ir.Node | None:
    if node is None or node.op_type != op_type or node.domain != "" or node.inputs[0] is None:
        return None
    earlier = node.inputs[0].producer()
    return earlier if earlier is not None and earlier.op_type == before and earlier.domain == "" else None
