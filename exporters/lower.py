"""Write a canonical model for one target: every site in the form chosen for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from edgeattn.exporters.canonical import OPSET
from edgeattn.exporters.custom.functions import convert_version, inline_functions
from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.passes.pipeline import finish
from edgeattn.exporters.passes.rotary import FuseRotary
from edgeattn.exporters.sites import DOMAIN, GraphSite, find_sites


def lower(
    canonical: ir.Model,
    chosen: Mapping[str, Lowering],
    limits: dict[str, int],
    functions: bool = False,
    max_keys: int | None = None,
) -> ir.Model:
    """A copy of `canonical` with each site written by `chosen[site.name]`. Weights are shared, not copied.

    `functions` keeps custom operators as functions, for a runtime that takes them; otherwise they are written out.
    `max_keys` is what lowerings are told where the model is a smaller one in the place of another.
    """
    model = canonical.clone()
    if not functions:
        inline_functions(model)
    for site in find_sites(model):
        core = site.core(limits)
        _lower_site(model, site, chosen[site.name], core if max_keys is None else replace(core, max_keys=max_keys))
    if any(lowering.turns_rows for lowering in chosen.values()):
        FuseRotary()(model)
    model.graph.opset_imports.pop(DOMAIN, None)
    for lowering in chosen.values():
        model.graph.opset_imports.update(dict.fromkeys(lowering.domains, 1))
    opset = max((lowering.opset for lowering in chosen.values()), default=OPSET)
    if opset > OPSET:
        convert_version(model, opset)
    finish(model)
    return model


def _lower_site(model: ir.Model, site: GraphSite, lowering: Lowering, core: Core) -> None:
    b = Builder(site.operands.q.dtype or ir.DataType.FLOAT)
    operands, replaced = site.operands, list(site.node.outputs)
    if lowering.updates_cache:
        assert site.cache is not None
        keys, values = site.cache.keys, site.cache.values
        operands = replace(operands, k=keys.new, v=values.new, past_k=keys.past, past_v=values.past)
        replaced += [keys.present, values.present]
    written = lowering.outputs(b, core, operands)
    for node in b.nodes:
        node.metadata_props.update(site.node.metadata_props)
    model.graph.insert_before(site.node, list(b.nodes))
    for old, new in zip(replaced, written, strict=True):
        # the border keeps its canonical name and shape, whatever the form in between
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(dict.fromkeys(source for value in replaced if (source := value.producer())), safe=True)
