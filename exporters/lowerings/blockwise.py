"""Any attention in slices of queries, each against all keys: exact, and only a slice of the scores is held at a time.

Every row of scores is complete within its slice, so nothing has to be merged afterwards: the plain ancestor of memory-
efficient attention (Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory", 2021, https://arxiv.org/abs/2112.05682).
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.decomposed import attend, with_repeated_heads
from edgeattn.exporters.lowerings.slices import joined, longest, sliced
from edgeattn.exporters.lowerings.visibility import visibility
from edgeattn.spec import AttentionSpec

SLICES = 16


class Blockwise(Lowering):
    """Scores are (B, H, S / 16, T); masks and patterns are written for the slice's queries alone."""

    name = "blockwise"
    summary = f"standard operators on {SLICES} slices of queries in turn"
    takes = "every attention without a log-sum-exp"
    memory = f"S T / {SLICES}"

    def accepts(self, core: Core) -> str | None:
        return "it does not give the log-sum-exp" if core.spec.lse else None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        whole = with_repeated_heads(b, core.spec, x)
        length = b.size(x.q, 2)
        contexts = [
            attend(b, core.spec, replace(whole, q=rows.of(x.q, 2)), visibility(b, core, whole, rows=rows))
            for rows in sliced(b, length, SLICES)
        ]
        return joined(b, contexts, length, axis=2)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        wide = spec.head_dim if spec.score == "additive" else 1
        scores = longest(queries, SLICES) * keys * wide
        repeated = keys * (spec.head_dim + spec.value_head_dim) if spec.group > 1 else 0
        return batch * spec.q_heads * (scores + repeated + queries * spec.value_head_dim)
