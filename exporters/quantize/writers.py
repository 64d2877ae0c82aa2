"""What writes a flavour in smaller numbers: one contract, one writer for each runtime that has any."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from edgeattn.exporters.quantize import onnx_cache, onnx_file, onnx_io, onnx_token, openvino_file
from edgeattn.exporters.quantize.kinds import CACHE, OPENVINO, ORT, Kinds, Layer, for_prompts, for_token
from edgeattn.exporters.quantize.ranges import Method
from edgeattn.exporters.quantize.samples import Feeds
from edgeattn.exporters.quantize.smooth import largest_inputs, smooth
from edgeattn.manifest import PAST, Manifest
from edgeattn.openvino_ir import SUFFIX, Note, read_ir


class Writer(abc.ABC):
    """Writes the file at `path` again, any of its layers smaller. `samples` are asked for only where a kind is calibrated, and
    `method` says how the ranges of inputs are found from them."""

    suffix: ClassVar[str]
    """Of the files that it writes."""
    writes_cache: ClassVar[bool]
    """Whether what a cache is kept in stands in the file, and is not only said to the runtime."""
    writes_token: ClassVar[bool]
    """Whether it can give a single token a graph of its own, beside that for a prompt."""
    token_differs: ClassVar[bool]
    """Whether that graph may be of other kinds."""

    def __init__(
        self, path: Path, manifest: Manifest, samples: Callable[[], Sequence[Feeds]], method: Method | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.samples = samples
        self.method = method

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
    writes_cache = True
    writes_token = True
    token_differs = True

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return onnx_file.layers(self._model)

    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        model = self._written(self._model, for_prompts(kinds))
        if token := for_token(kinds):
            limit = self.manifest.limits.get(PAST)
            model = onnx_token.joined(model, self._written(self._token, token), limit)
        onnx_io.write(model, path, weights)
        return onnx_io.domains(model)

    def _written(self, model: Any, kinds: Kinds) -> Any:
        if smoothed := {layer for layer, kind in kinds.items() if kind.calibrated and layer != CACHE}:
            model = onnx_io.copied(model)
            smooth(model, smoothed, self._largest)
        samples = self.samples() if any(kind.ranged for kind in kinds.values()) else []
        model = onnx_file.quantized(model, kinds, samples, self.method)
        if CACHE in kinds:
            onnx_cache.keep_in_int8(model, self._cache_peaks)
        return model

    @cached_property
    def _model(self) -> Any:
        return onnx_file.read(self.path)

    @cached_property
    def _token(self) -> Any:
        """As it can be for a single token."""
        return onnx_token.for_one_token(self.path, self.manifest.limits.get(PAST))

    @cached_property
    def _largest(self) -> dict[str, Any]:
        """Of each product's input, the largest magnitude of each column."""
        return largest_inputs(self._model, self.layers, self.samples(), self.manifest.padding or "")

    @cached_property
    def _cache_peaks(self) -> dict[str, Any]:
        """Of each part of the cache, the largest magnitude of each channel of a head."""
        return onnx_cache.peaks(self._model, self.samples())


class OpenVINOWriter(Writer):
    """For OpenVINO: NNCF. A graph for a token is the same one, which a session compiles again with the sizes of a token."""

    suffix = SUFFIX
    writes_cache = False
    writes_token = True
    token_differs = False

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return openvino_file.layers(self._read())

    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        layers = for_prompts(kinds)
        calibrated = any(kind.calibrated for kind in layers.values())
        model = openvino_file.quantized(self._read(), layers, self.samples() if calibrated else [], self.method)
        note = replace(self._note(model, weights), token=bool(for_token(kinds)))
        return openvino_file.write(model, path, path.parent / weights, note)

    def _read(self) -> Any:
        """Anew each time, since NNCF changes what it is given."""
        return openvino_file.read(self.path)

    def _note(self, model: Any, weights: str) -> Note:
        found = read_ir(self.path).note() if self.path.suffix == SUFFIX else None
        if found is not None:
            return replace(found, weights=weights)
        takes = openvino_file.input_names(model)
        inputs = tuple(info for info in self.manifest.inputs if info.name in takes)
        return Note(weights, inputs, self.manifest.outputs, {})


WRITERS: dict[str, type[Writer]] = {ORT: OnnxWriter, OPENVINO: OpenVINOWriter}
"""By the name of the runtime."""
