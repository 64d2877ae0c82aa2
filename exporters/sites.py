"""Attention sites of a canonical model: where they are, what they compute, where they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeattn import manifest, spec
from edgeattn.errors import CaptureError
from edgeattn.exporters.caches import Cache, cache_of
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.spec import AttentionSpec

DOMAIN = "edgeattn"
SPEC_KEY = "edgeattn.spec"
"""Metadata of a canonical node: its spec as JSON."""
MODULE_KEY = "edgeattn.module"
"""Metadata of a node: the path of the PyTorch module it came from, `encoder.layer.0.attention.self`."""


@dataclass(frozen=True, slots=True)
class GraphSite:
    """One canonical node of a graph, with its spec."""

    node: ir.Node
    spec: AttentionSpec
    module: str

    @property
    def name(self) -> str:
        """The node's name; the same in every flavour of a model."""
        return self.node.name or ""

    @property
    def operands(self) -> Operands:
        """The node's inputs by role."""
        return Operands.of(self.spec, [value for value in self.node.inputs if value is not None])

    @property
    def cache(self) -> Cache | None:
        """The model's key/value cache that this attention alone reads, if it has one."""
        return cache_of(self.operands.k, self.operands.v)

    def core(self, limits: dict[str, int]) -> Core:
        """What a lowering may know; `limits` are the largest sizes of the model's dynamic dimensions."""
        x = self.operands
        queries, keys = _dim(x.q, 2), _dim(x.k, 2)
        return Core(
            self.spec,
            square=queries is not None and queries == keys,
            max_keys=keys if isinstance(keys, int) else limits.get(keys or ""),
            mask_dims=_dims(x.mask),
            bias_dims=_dims(x.bias),
            cached=self.cache is not None,
        )

    def fixed_core(self, limits: dict[str, int]) -> Core:
        """As `core`, in a graph of literal sizes only: with these."""
        q, k = self.operands.q.shape, self.operands.k.shape
        sizes = () if q is None or k is None else (q[0], q[2], k[2])
        whole = [size for size in sizes if isinstance(size, int)]
        if len(whole) != 3:
            raise CaptureError(f"attention {self.name}: its sizes {list(sizes)} do not follow from those of the inputs")
        return replace(self.core(limits), size=(whole[0], whole[1], whole[2]), cached=False)

    def record(self) -> manifest.Site:
        """The site as the manifest names it."""
        return manifest.Site(self.name, self.module, self.node.op_type, self.spec)


def find_sites(model: ir.Model) -> list[GraphSite]:
    """The canonical nodes of the main graph in order."""
    return [
        GraphSite(node, spec.from_json(node.metadata_props[SPEC_KEY]), module_path(node))
        for node in model.graph
        if node.domain == DOMAIN
    ]


def module_path(node: ir.Node) -> str:
    """The PyTorch module a node came from; empty where that is not known."""
    return node.metadata_props.get(MODULE_KEY, "")


def _dims(value: ir.Value | None) -> tuple[int | None, ...]:
    """1 where an axis broadcasts, and the number of heads; batch and lengths vary, since a form is proven at all of them."""
    if value is None or value.shape is None:
        return ()
    heads = len(value.shape) - 3
    sizes = [dim if isinstance(dim, int) else None for dim in value.shape]
    return tuple(size if size == 1 or axis == heads else None for axis, size in enumerate(sizes))


def _dim(value: ir.Value, axis: int) -> int | str | None:
    if value.shape is None:
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else dim.value
