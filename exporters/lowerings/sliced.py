"""Causal attention in slices of queries, each against the keys it can see and no others.

A dense causal form computes S x S scores and hides half of them, and a softmax may take five times as long over rows with
hidden entries. A slice leaves out what lies right of it, so that only the corner where it meets the diagonal is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.decomposed import capped
from edgeattn.exporters.lowerings.slices import Rows, joined, longest, sliced
from edgeattn.exporters.lowerings.visibility import Visibility, hiding
from edgeattn.spec import AttentionSpec, Causal

SLICES = 16

Attend = Callable[[ir.Value, ir.Value, ir.Value, ir.Value], ir.Value]
"""q, k, v of a slice and what is added to its scores -> its context."""


class Sliced(Lowering):
    """(B, H, S, D) is read as (B, K, G, S, D): keys and values broadcast to their group and are never repeated."""

    name = "sliced"
    summary = f"causal attention in {SLICES} slices of queries, each against the keys it can see"
    takes = "causal attention, equal lengths, key padding or no mask, no bias"
    memory = f"S T / {SLICES}"

    def accepts(self, core: Core) -> str | None:
        spec = core.spec
        if reason := beyond_softmax(spec):
            return reason
        if not isinstance(spec.pattern, Causal):
            return "it is for causal attention"
        if not core.square:
            return "the graph does not show that query and key length are equal"
        return "it takes no mask but key padding, and no bias" if spec.mask in ("dense", "document") or spec.bias else None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec

        def attend(q: ir.Value, k: ir.Value, v: ir.Value, additive: ir.Value) -> ir.Value:
            scores = b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 2, 4, 3)), b.number(spec.scale))
            return b.op("MatMul", b.op("Softmax", b.op("Add", capped(b, spec, scores), additive), axis=-1), v)

        q = b.reshape(x.q, 0, spec.kv_heads, spec.group, -1, spec.head_dim)
        k, v = (b.op("Unsqueeze", value, b.ints(2)) for value in (x.k, x.v))
        mask = None if x.mask is None else b.op("Unsqueeze", x.mask, b.ints(1, 2, 3))
        context = _in_slices(b, Operands(q, k, v, mask), attend, axis=3)
        return b.reshape(context, 0, spec.q_heads, -1, spec.value_head_dim)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        rows = longest(queries, SLICES)
        scores = spec.q_heads * rows * (keys + spec.head_dim)
        seen = spec.kv_heads * keys * (spec.head_dim + spec.value_head_dim)
        shown = rows * keys * (1 if spec.mask == "none" else 1 + batch)
        return batch * (scores + seen + spec.q_heads * queries * spec.value_head_dim) + shown


class SlicedAttention(Sliced):
    """The same slices, each one ai.onnx Attention-23: its kernel adds the mask and shares out heads by itself."""

    name = "sliced-23"
    summary = f"causal attention in {SLICES} slices of queries, each one ai.onnx Attention operator (opset 23)"
    opset = 23

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        attributes: dict[str, Any] = {"scale": spec.scale}
        if spec.softcap is not None:
            attributes["softcap"] = spec.softcap
        masked = x if x.mask is None else replace(x, mask=b.op("Unsqueeze", x.mask, b.ints(1, 2)))
        return _in_slices(b, masked, lambda *inputs: b.op("Attention", *inputs, **attributes), axis=2)


def _in_slices(b: Builder, x: Operands, attend: Attend, axis: int) -> ir.Value:
    """`attend` for each slice. The lengths of q, k and v are on `axis`, that of a mask is on its last one."""
    length = b.size(x.q, axis)
    slices = sliced(b, length, SLICES)
    contexts = []
    for rows, corner in zip(slices, _corners(b, slices, length, masked=x.mask is not None), strict=True):
        k, v = (_until(rows, value, axis) for value in (x.k, x.v))
        shown = hiding(b, b.op("And", corner, _until(rows, x.mask, -1))) if x.mask is not None else Visibility(corner, None)
        assert shown.additive is not None
        contexts.append(shown.guard(b, attend(rows.of(x.q, axis), k, v, shown.additive)))
    return joined(b, contexts, length, axis)


def _until(rows: Rows, value: ir.Value, axis: int) -> ir.Value:
    """Of an axis that runs over the keys those up to the last query of a slice."""
    return rows.b.op("Slice", value, rows.b.ints(0), rows.end, rows.b.ints(axis))


def _corners(b: Builder, slices: Sequence[Rows], length: ir.Value, masked: bool) -> list[ir.Value]:
    """Of each slice what its queries see of the keys up to the last of them: (rows, keys). Bool if there is a padding mask to
    meet, otherwise 0 / -inf.

    They are parts of one tensor, the last rows of a causal mask (longest slice, S), from the right. Where they begin is
    computed for all slices at once, since a runtime takes longer to start so small an operator than to run it.
    """
    size = b.op("Div", b.op("Add", length, b.ints(SLICES - 1)), b.ints(SLICES))
    keys = b.op("Range", b.index(0), b.op("Squeeze", length), b.index(1))
    queries = b.op("Slice", keys, b.op("Neg", size), length, b.ints(0))
    shown = b.op("LessOrEqual", b.op("Unsqueeze", keys, b.ints(0)), b.op("Unsqueeze", queries, b.ints(1)))
    values = shown if masked else b.op("Where", shown, b.number(0), b.number(-np.inf))
    starts, ends = (b.op("Concat", *bounds, axis=0) for bounds in zip(*((r.start, r.end) for r in slices), strict=True))
    above = b.op("Sub", size, b.op("Sub", ends, starts))
    corners = b.op("Concat", *(b.op("Unsqueeze", v, b.ints(1)) for v in (above, b.op("Sub", length, ends))), axis=1)
    firsts = [b.op("Gather", corners, b.index(i), axis=0) for i in range(len(slices))]
    last = b.op("Concat", size, length, axis=0)
    return [b.op("Slice", values, first, last, b.ints(0, 1)) for first in firsts]
