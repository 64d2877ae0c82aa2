"""ONNX Runtime's own operators (domain com.microsoft), which OpenVINO imports as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.rows import to_guarded_heads, to_heads, to_rows
from edgeattn.exporters.lowerings.visibility import visibility
from edgeattn.spec import AttentionSpec, Causal, Full, SlidingWindow

DOMAIN = "com.microsoft"
_FLASH_BLOCK = 256


class MultiHeadAttention(Lowering):
    """Operator spec: com.microsoft.MultiHeadAttention. Without a mask its CPU kernel never holds (S, T).

    Masks go in as `attention_bias`; its `key_padding_mask` adds a finite -10000 instead of -inf.
    """

    name = "contrib-mha"
    summary = "com.microsoft.MultiHeadAttention"
    takes = "as many key/value heads as query heads, no softcap"
    domains = (DOMAIN,)

    def accepts(self, core: Core) -> str | None:
        if reason := beyond_softmax(core.spec):
            return reason
        if core.spec.group > 1:
            return f"it needs as many key/value heads as query heads, got {core.spec.q_heads} and {core.spec.kv_heads}"
        return "it has no softcap" if core.spec.softcap is not None else None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        shown = visibility(b, core, x)
        inputs = [*to_rows(b, spec, x), None, None, shown.full(b, x)]
        used = inputs if inputs[-1] is not None else inputs[:3]
        rows = b.op("MultiHeadAttention", *used, domain=DOMAIN, num_heads=spec.q_heads, scale=spec.scale)
        return to_guarded_heads(b, rows, shown, spec, x)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        masked = spec.mask != "none" or spec.bias or not isinstance(spec.pattern, Full)
        width = keys if masked else min(keys, _FLASH_BLOCK)
        return batch * spec.q_heads * queries * width


class GroupQueryAttention(Lowering):
    """Operator spec: com.microsoft.GroupQueryAttention, used without a past: causal self-attention over whole rows."""

    name = "contrib-gqa"
    summary = "com.microsoft.GroupQueryAttention"
    takes = "causal self-attention or a causal window, equal lengths, one head size, no mask, no bias"
    domains = (DOMAIN,)

    def accepts(self, core: Core) -> str | None:
        spec = core.spec
        if reason := beyond_softmax(spec):
            return reason
        window = isinstance(spec.pattern, SlidingWindow) and spec.pattern.right == 0
        if not (isinstance(spec.pattern, Causal) or window):
            return "it is always causal"
        if not core.square:
            return "the graph does not show that query and key length are equal"
        if spec.mask != "none" or spec.bias:
            return "it takes no mask and no bias"
        if spec.value_head_dim != spec.head_dim:
            return f"it needs one head size, got {spec.head_dim} for keys and {spec.value_head_dim} for values"
        return None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        total = b.op("Cast", b.size(x.k, 2), to=ir.DataType.INT32)
        last = b.op("Sub", total, b.op("Constant", value=ir.tensor(np.array(1, dtype=np.int32))))
        attributes: dict[str, Any] = {"num_heads": spec.q_heads, "kv_num_heads": spec.kv_heads, "scale": spec.scale}
        if isinstance(spec.pattern, SlidingWindow) and spec.pattern.left is not None:
            attributes["local_window_size"] = spec.pattern.left + 1
        if spec.softcap is not None:
            attributes["softcap"] = spec.softcap
        lengths = b.op("Expand", last, b.size(x.q, 0))
        inputs = [*to_rows(b, spec, x), None, None, lengths, b.op("Squeeze", total)]
        return to_heads(b, b.op("GroupQueryAttention", *inputs, domain=DOMAIN, **attributes), spec, x.q)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        return batch * spec.q_heads * queries * keys
