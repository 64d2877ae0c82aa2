"""The ai.onnx `Attention` operator, opset 23 and 24."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.rows import to_guarded_heads, to_rows
from edgeattn.exporters.lowerings.visibility import visibility
from edgeattn.spec import AttentionSpec, Causal, Full


class OnnxAttention23(Lowering):
    """Operator spec: ai.onnx Attention-23, on (B, S, H * D): its own split into heads is faster than the model's.

    Windows and masks go in as an additive mask of (B or 1, H or 1, S, T)."""

    name = "attention-23"
    summary = "one ai.onnx Attention operator (opset 23)"
    takes = "every softmax of dot products"
    opset = 23

    def accepts(self, core: Core) -> str | None:
        return beyond_softmax(core.spec)

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        causal = isinstance(spec.pattern, Causal) and (spec.pattern.alignment == "upper_left" or core.square)
        shown = visibility(b, core, x, pattern=Full() if causal else None)
        attributes: dict[str, Any] = {"scale": spec.scale, "q_num_heads": spec.q_heads, "kv_num_heads": spec.kv_heads}
        if causal:
            attributes["is_causal"] = 1
        if spec.softcap is not None:
            attributes["softcap"] = spec.softcap
        # ONNX Runtime wants the query axis of the mask in full, though the operator allows it to broadcast
        inputs = [*to_rows(b, spec, x), shown.full(b, x)]
        rows = b.op("Attention", *(inputs if inputs[-1] is not None else inputs[:-1]), **attributes)
        return to_guarded_heads(b, rows, shown, spec, x)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        return batch * spec.q_heads * queries * keys


class OnnxAttention24(OnnxAttention23):
    """Operator spec: ai.onnx Attention-24; for models whose other operators need opset 24."""

    name = "attention-24"
    summary = "one ai.onnx Attention operator (opset 24)"
    opset = 24
