"""What writes a flavour in smaller numbers: one contract, one writer for each runtime that has any."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from edgeattn.exporters.quantize import onnx_file, onnx_merging, openvino_file, openvino_merging
from edgeattn.exporters.quantize.kinds import OPENVINO, ORT, Kinds, Layer
from edgeattn.exporters.quantize.samples import Feeds
from edgeattn.exporters.quantize.smooth import largest_inputs, smooth
from edgeattn.manifest import PAST, Manifest
from edgeattn.openvino_ir import SUFFIX, Note, read_ir


class Writer(abc.ABC):
    """Writes the file at `path` again, any of its layers smaller. `samples` are asked for only where a kind is calibrated."""

    suffix: ClassVar[str]
    """Of the files that it writes."""

    def __init__(self, path: Path, manifest: Manifest, samples: Callable[[], Sequence[Feeds]]) -> None:
        self.path = path
        self.manifest = manifest
        self.samples = samples
        self.steps = any(PAST in info.dims for info in manifest.inputs)
        """Whether the model is run for one token after the other, where merging products pays; a longer input is slower by the
        copies of the split."""

    @property
    @abc.abstractmethod
    def layers(self) -> dict[str, Layer]:
        """What can be written in smaller numbers, by name, in the order of the graph."""

    @abc.abstractmethod
    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        """Write to `path`, the numbers to the file `weights` beside it; returns the operator domains, as a manifest has them."""


class OnnxWriter(Writer):
    """For ONNX Runtime: operators and quantizers of its own."""

    suffix = ".onnx"

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return onnx_file.layers(self._model)

    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        model = self._model
        if smoothed := {layer for layer, kind in kinds.items() if kind.calibrated}:
            model = onnx_file.copied(model)
            smooth(model, smoothed, self._largest)
        model = onnx_file.quantized(model, kinds)
        onnx_file.write(model, path, weights)
        return onnx_file.domains(model)

    @cached_property
    def _model(self) -> Any:
        model = onnx_file.read(self.path)
        if self.steps:
            onnx_merging.merge_products(model)
        return model

    @cached_property
    def _largest(self) -> dict[str, Any]:
        """Of each product's input, the largest magnitude of each column."""
        return largest_inputs(self._model, self.layers, self.samples(), self.manifest.padding or "")


class OpenVINOWriter(Writer):
    """For OpenVINO: NNCF."""

    suffix = SUFFIX

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return openvino_file.layers(self._read())

    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        calibrated = any(kind.calibrated for kind in kinds.values())
        model = openvino_file.quantized(self._read(), kinds, self.samples() if calibrated else [])
        return openvino_file.write(model, path, path.parent / weights, self._note(model, weights))

    def _read(self) -> Any:
        """Anew each time, since NNCF changes what it is given."""
        model = openvino_file.read(self.path)
        if self.steps:
            openvino_merging.merge_products(model)
        return model

    def _note(self, model: Any, weights: str) -> Note:
        found = read_ir(self.path).note() if self.path.suffix == SUFFIX else None
        if found is not None:
            return replace(found, weights=weights)
        takes = openvino_file.input_names(model)
        inputs = tuple(info for info in self.manifest.inputs if info.name in takes)
        return Note(weights, inputs, self.manifest.outputs, {})


WRITERS: dict[str, type[Writer]] = {ORT: OnnxWriter, OPENVINO: OpenVINOWriter}
"""By the name of the runtime."""
