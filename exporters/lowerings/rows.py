"""Heads side by side, (B, S, H * D), as fused operators also take them: the model's own transposes then cancel."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Operands
from edgeattn.exporters.lowerings.visibility import Visibility
from edgeattn.spec import AttentionSpec


def to_rows(b: Builder, spec: AttentionSpec, x: Operands) -> list[ir.Value | None]:
    """q, k, v as (B, length, heads * size)."""
    widths = (spec.q_heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.value_head_dim)
    values = zip((x.q, x.k, x.v), widths, strict=True)
    return [b.reshape(b.transpose(value, 0, 2, 1, 3), 0, 0, width) for value, width in values]


def to_heads(b: Builder, rows: ir.Value, spec: AttentionSpec, q: ir.Value) -> ir.Value:
    """(B, S, H * E) -> (B, H, S, E). The shape is set by hand: shape inference does not know every domain."""
    if q.shape is not None:
        rows.type = ir.TensorType(b.dtype)
        rows.shape = ir.Shape([q.shape[0], q.shape[2], spec.q_heads * spec.value_head_dim])
    return b.transpose(b.reshape(rows, 0, 0, spec.q_heads, spec.value_head_dim), 0, 2, 1, 3)


def to_guarded_heads(b: Builder, rows: ir.Value, shown: Visibility, spec: AttentionSpec, x: Operands) -> ir.Value:
    """`to_heads` with zeros for queries that see no key."""
    if spec.mask == "dense" or spec.bias:  # emptiness may differ from head to head
        return shown.guard(b, to_heads(b, rows, spec, x.q))
    return to_heads(b, shown.guard_rows(b, rows, per_batch=x.mask is not None), spec, x.q)
