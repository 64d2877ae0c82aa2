"""Grouped queries without repeating keys and values: the query heads of one key head become rows of one product."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.decomposed import scaled_scores
from edgeattn.exporters.lowerings.visibility import Visibility, visibility
from edgeattn.spec import AttentionSpec


class Grouped(Lowering):
    """(B, H, S, D) is read as (B, K, G S, D); scores are seen as (B, H, S, T) only while masks are added."""

    name = "grouped"
    summary = "standard operators on (B, K, G*S, D): keys and values are never repeated"
    takes = "grouped and multi-query attention (fewer key/value heads than query heads)"

    def accepts(self, core: Core) -> str | None:
        if reason := beyond_softmax(core.spec):
            return reason
        return None if core.spec.group > 1 else "every query head has its own key head, so there is nothing to group"

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        shown = self.shown(b, core, x)
        scores = scaled_scores(b, spec, b.reshape(x.q, 0, spec.kv_heads, -1, spec.head_dim), x.k)
        if shown.additive is not None:
            # axis 3 of both shapes is T, so 0 copies it; the rows split into (G, S) without moving
            per_head = shown.add(b, b.reshape(scores, 0, spec.q_heads, -1, 0))
            scores = b.reshape(per_head, 0, spec.kv_heads, -1, 0)
        context = b.op("MatMul", b.op("Softmax", scores, axis=-1), x.v)
        return shown.guard(b, b.reshape(context, 0, spec.q_heads, -1, spec.value_head_dim))

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        """What the queries see, as it is added to the scores."""
        return visibility(b, core, x)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        return batch * spec.q_heads * queries * keys
