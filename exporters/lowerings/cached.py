"""Attention that writes its own cache: past and present may be one buffer, and a step then copies nothing but what is new."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_sinks
from edgeattn.exporters.lowerings.contrib import DOMAIN
from edgeattn.exporters.lowerings.rows import to_guarded_heads, to_heads, to_rows
from edgeattn.exporters.lowerings.visibility import visibility
from edgeattn.spec import AttentionSpec, Causal, SlidingWindow


class CachedGroupQueryAttention(Lowering):
    """Operator spec: com.microsoft.GroupQueryAttention with its past.

    Its length is that of the mask: the buffers may be longer. What a query sees goes in as `attention_bias`, the operator's
    own causal rule beside it, so that padding may stand anywhere. On the CPU it takes a chunk behind a past for one row only;
    the session runs such rows in turn.
    """

    name = "contrib-gqa-cache"
    summary = "com.microsoft.GroupQueryAttention that writes the cache in place"
    takes = "causal attention or a causal window over a cache, one head size of a multiple of 8, with a key padding mask"
    domains = (DOMAIN,)
    updates_cache = True
    turns_rows = True

    def accepts(self, core: Core) -> str | None:
        spec = core.spec
        if not core.cached:
            return "the keys and values are no cache that this attention alone reads"
        if reason := beyond_sinks(spec):
            return reason
        if not _causal(spec):
            return "it is always causal, and its last query stands at the last key"
        if spec.mask != "key_padding":
            return "without a key padding mask nothing says how many positions of a buffer are used"
        if spec.value_head_dim != spec.head_dim:
            return f"it needs one head size, got {spec.head_dim} for keys and {spec.value_head_dim} for values"
        return f"it needs a head size that is a multiple of 8, got {spec.head_dim}" if spec.head_dim % 8 else None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        return self.outputs(b, core, x)[0]

    def outputs(self, b: Builder, core: Core, x: Operands) -> tuple[ir.Value, ...]:
        """The context, the present keys, the present values."""
        spec = core.spec
        assert x.mask is not None
        # visibility reads nothing of its keys but their number, on axis 2
        seen_from = Operands(x.q, b.op("Unsqueeze", x.mask, b.ints(1, 3)), x.v, x.mask, x.bias)
        shown = visibility(b, core, seen_from)
        total = b.op("Cast", b.size(x.mask, 1), to=ir.DataType.INT32)
        last = b.op("Sub", total, b.op("Constant", value=ir.tensor(np.array(1, dtype=np.int32))))
        lengths = b.op("Expand", last, b.size(x.q, 0))
        inputs = [*to_rows(b, spec, x), x.past_k, x.past_v, lengths, b.op("Squeeze", total)]
        inputs += [None, None, None, shown.full(b, seen_from), *([x.sink] if x.sink is not None else [])]
        attributes: dict[str, Any] = {"num_heads": spec.q_heads, "kv_num_heads": spec.kv_heads, "scale": spec.scale}
        if spec.softcap is not None:
            attributes["softcap"] = spec.softcap
        rows, *present = b.ops("GroupQueryAttention", *inputs, outputs=3, domain=DOMAIN, **attributes)
        context = to_guarded_heads(b, rows, shown, spec, x) if core.guarded else to_heads(b, rows, spec, x.q)
        return context, *present

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        return batch * spec.q_heads * queries * keys


def _causal(spec: AttentionSpec) -> bool:
    window = isinstance(spec.pattern, SlidingWindow) and spec.pattern.right == 0
    return (isinstance(spec.pattern, Causal) or window) and getattr(spec.pattern, "alignment", "") == "lower_right"
