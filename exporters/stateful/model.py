"""A canonical model of a decoder, written for OpenVINO so that it keeps its cache itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeattn.exporters.lower import lower
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.stateful.attention import StatefulAttention
from edgeattn.exporters.stateful.conversion import convert, variable
from edgeattn.exporters.stateful.weights import save
from edgeattn.manifest import PAST, TensorInfo
from edgeattn.openvino_ir import NOTE, Note, read_layers

FORM = StatefulAttention()


@dataclass(frozen=True, slots=True)
class Stateful:
    """A canonical model to be written. `weights` is the file that has its large tensors already."""

    canonical: ir.Model
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    limits: dict[str, int]
    weights: Path

    def write(self, path: Path) -> dict[str, int]:
        """Write the model as XML; returns its domains, as a manifest has them."""
        pairs = self._pairs()
        model = lower(self.canonical, {site.name: FORM for site in find_sites(self.canonical)}, self.limits)
        values = [value.const_value for value in model.graph.initializers.values()]
        file = path.with_suffix(".onnx")  # beside its weights, which it names relative to itself
        try:
            ir.save(model, file)
            converted = convert(file, pairs, self._rows())
        finally:
            file.unlink(missing_ok=True)
        variables = {past: (present, variable(past, present)) for past, present in pairs.items()}
        outputs = tuple(TensorInfo(info.name, info.dtype, info.dims) for info in self.outputs)
        converted.set_rt_info(Note(self.weights.name, self.inputs, outputs, variables).dumps(), list(NOTE))
        save(converted, path, self.weights, [tensor for tensor in values if isinstance(tensor, ir.ExternalTensor)])
        return {"openvino": max(int(layer.opset.removeprefix("opset")) for layer in read_layers(path))}

    def refusal(self) -> str:
        """Why the model cannot be written so; empty where it can."""
        sites = find_sites(self.canonical)
        for site in sites:
            if reason := FORM.accepts(site.core(self.limits)):
                return f"{site.name}: {reason}"
        past = [info.name for info in self.inputs if PAST in info.dims[2:3]]
        apart = sorted(set(past) - set(self._pairs()))
        return f"{apart[0]} is read by something else than attention" if apart else ""

    def _pairs(self) -> dict[str, str]:
        """Past -> present of every cache."""
        caches = [cache for site in find_sites(self.canonical) if (cache := site.cache) is not None]
        halves = [half for cache in caches for half in (cache.keys, cache.values)]
        return {str(half.past.name): str(half.present.name) for half in halves}

    def _rows(self) -> tuple[str, int]:
        """An input that is no past, and its axis of B."""
        past = next(info for info in self.inputs if PAST in info.dims[2:3])
        fed = next(info for info in self.inputs if PAST not in info.dims[2:3] and past.dims[0] in info.dims)
        return fed.name, fed.dims.index(past.dims[0])
