"""What a foreign ONNX file holds: each attention with the form it has there, and what an export would make of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeattn.errors import LoweringError
from edgeattn.exporters.choose import choose
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.raising.pipeline import CONTRIB, FORM_KEY
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.onnx_check import open_onnx
from edgeattn.exporters.sources.onnx_file import raised
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import tensor_info
from edgeattn.spec import AttentionSpec, to_dict


@dataclass(frozen=True, slots=True)
class FoundSite:
    """One attention. `form` is what it is in the file; `lowerings` maps a target to what an export would write there."""

    name: str
    module: str
    form: str
    spec: AttentionSpec
    lowerings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file. `unraised` names the attention that no site covers; `rewritten` counts operators that are not in opset 18."""

    path: Path
    size: int
    opset: int
    domains: dict[str, int]
    producer: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    sites: tuple[FoundSite, ...]
    unraised: tuple[str, ...]
    rewritten: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        sites = [
            {
                "name": site.name,
                "module": site.module,
                "form": site.form,
                "summary": site.spec.summary(),
                "spec": to_dict(site.spec),
                "lowerings": site.lowerings,
            }
            for site in self.sites
        ]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        infos = {name: [dataclasses.asdict(info) for info in plain[name]] for name in ("inputs", "outputs")}
        return {**plain, "path": str(self.path), **infos, "sites": sites, "unraised": list(self.unraised)}


def inspect_onnx(path: Path) -> Inspection:
    """Read a file and raise its attention, without exporting it.

    Raises:
        SourceError, RaisingError: as an export of it would.
    """
    model = open_onnx(path)
    size = path.stat().st_size + sum(place.stat().st_size for place in _weight_files(model, path))
    domains, rewritten = dict(model.graph.opset_imports), _rewritten(model)
    canonical = raised(model)
    return Inspection(
        path=path,
        size=size,
        opset=domains[""],
        domains=domains,
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        inputs=tuple(_info(value) for value in canonical.graph.inputs),
        outputs=tuple(_info(value) for value in canonical.graph.outputs),
        sites=_sites(canonical),
        unraised=tuple(unraised(canonical)),
        rewritten=rewritten,
    )


def _sites(model: ir.Model) -> tuple[FoundSite, ...]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        prover = Prover(Path(folder))
        for site in find_sites(model):
            lowerings = {}
            for name in registry.deployable():
                runtime = registry.get(name)
                if runtime.check().ok:
                    device = runtime.devices()[0]
                    try:
                        lowerings[f"{name}:{device}"] = choose(site.core({}), runtime, device, prover).lowering.name
                    except LoweringError:
                        lowerings[f"{name}:{device}"] = "none is proven"
            form = site.node.metadata_props.get(FORM_KEY, "")
            found.append(FoundSite(site.name, site.module, form, site.spec, lowerings))
    return tuple(found)


def _rewritten(model: ir.Model) -> dict[str, int]:
    """Operators of other domains, by name; attention is among the sites."""
    others = (node for node in model.graph.all_nodes() if node.domain == CONTRIB and not node.op_type.endswith("Attention"))
    counted = Counter(f"{node.domain} {node.op_type}" for node in others)
    return dict(sorted(counted.items()))


def _weight_files(model: ir.Model, path: Path) -> set[Path]:
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return {path.parent / str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _info(value: ir.Value) -> TensorInfo:
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]
    return tensor_info(value.name or "", "unknown" if value.dtype is None else str(value.dtype.numpy()), dims)
