"""What goes into a captured model and what comes out of it, as a manifest has it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeattn.errors import CaptureError
from edgeattn.exporters.sources.base import Source
from edgeattn.manifest import PAST, OutputInfo, TensorInfo
from edgeattn.tolerance import default_class


@dataclass(frozen=True, slots=True)
class Signature:
    """`limits`: the largest size of a dynamic dimension, where it has one. `padding`: the input that marks padding."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[OutputInfo, ...]
    limits: dict[str, int]
    padding: TensorInfo | None

    @classmethod
    def of(cls, source: Source, canonical: ir.Model) -> Signature:
        """Raises CaptureError where the graph lost a type."""
        inputs = tuple(_info(value) for value in canonical.graph.inputs)
        infos = [_info(value) for value in canonical.graph.outputs]
        classes = source.output_classes
        outputs = tuple(OutputInfo(i.name, i.dtype, i.dims, classes.get(i.name) or default_class(i.dtype)) for i in infos)
        limits = {d.name: d.limit for d in source.dimensions.values() if d.limit is not None}
        return cls(inputs, outputs, limits, next((info for info in inputs if info.name == source.padding), None))

    @property
    def past(self) -> list[TensorInfo]:
        """The inputs that are the cache."""
        return [info for info in self.inputs if PAST in info.dims[2:3]]


def _info(value: ir.Value) -> TensorInfo:
    if value.shape is None or value.dtype is None or not value.name:
        raise CaptureError(f"the graph lost the type of {value.name!r}; it has dtype {value.dtype}, shape {value.shape}")
    dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorInfo(value.name, str(value.dtype.numpy()), dims)
