"""Attention over a cache that the runtime keeps: one mark per site, which the conversion to OpenVINO replaces."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.visibility import visibility
from edgeattn.exporters.sites import DOMAIN
from edgeattn.spec import AttentionSpec

MARK = "StatefulAttention"


class StatefulAttention(Lowering):
    """Operator spec: OpenVINO's ScaledDotProductAttention-13 right behind the cache; visible keys as an additive mask.

    No form that a file of ONNX can have, so it is not in the registry: `stateful.flavour` writes it.
    """

    name = "stateful-sdpa"
    summary = "OpenVINO's ScaledDotProductAttention, fused with the cache that the runtime keeps"
    takes = "every softmax of dot products over a cache, without softcap and sink"
    domains = (DOMAIN,)

    def accepts(self, core: Core) -> str | None:
        if not core.cached:
            return "the keys and values are no cache that this attention alone reads"
        return beyond_softmax(core.spec) or ("it has no softcap" if core.spec.softcap is not None else None)

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        shown = visibility(b, core, x)
        # the fused attention takes no scale without a mask
        mask = replace(shown, additive=shown.additive or b.number(0)).full(b, x)
        sizes = {"q_heads": spec.q_heads, "kv_heads": spec.kv_heads, "k_size": spec.head_dim, "v_size": spec.value_head_dim}
        context = b.op(MARK, x.q, x.k, x.v, mask, domain=DOMAIN, scale=float(spec.scale), **sizes)
        return shown.guard(b, context) if core.guarded else context

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        return batch * queries * keys
