"""One way to write a flavour in smaller numbers: written, loaded, scored and timed beside the flavour at full precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.benchmarking.feeds import make_feeds, resolve_sizes
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import Ratio, compare_timings
from edgeattn.bundle import Bundle
from edgeattn.decoding.session import DecoderSession
from edgeattn.exporters.quantize import onnx_file, openvino_file
from edgeattn.exporters.quantize.kinds import ORT, Kind, Layer
from edgeattn.exporters.quantize.samples import Feeds, is_decoder, window
from edgeattn.exporters.quantize.smooth import largest_inputs, smooth
from edgeattn.loading import BundleSession
from edgeattn.manifest import FP32, Flavour
from edgeattn.openvino_ir import SUFFIX, Note, read_ir
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

Kinds = Mapping[str, Kind]
"""Layer -> how it is written; one that is not named stays as it is."""

_ROUNDS, _STEPS, _WARM_UP = 30, 40, 3
_BEHIND = 128


def kinds_used(kinds: Kinds, layers: Iterable[str]) -> dict[str, int]:
    """Kind -> how many of `layers` are written so; `fp32` those left."""
    counted = Counter(kinds[layer].name if layer in kinds else FP32 for layer in layers)
    return dict(sorted(counted.items()))


def rounds_inputs(kinds: Kinds) -> bool:
    """Whether the runtime has to be told that products may round their inputs."""
    return any(kind.activations == "int8" for kind in kinds.values())


@dataclass(frozen=True)
class Workshop:
    """Makes candidates of one flavour of a bundle and runs them. `folder` is for those that come and go."""

    bundle: Bundle
    flavour: Flavour
    runtime: Runtime
    device: str
    calibration: Sequence[Feeds]
    folder: Path
    threads: int | None = None

    @property
    def path(self) -> Path:
        """The file at full precision."""
        return self.bundle.file(self.flavour.file)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """What can be written in smaller numbers, by name, in the order of the graph."""
        if self.runtime.name == ORT:
            return onnx_file.layers(self._model)
        return openvino_file.layers(openvino_file.read(self.path))

    @cached_property
    def _model(self) -> Any:
        return onnx_file.read(self.path)

    @cached_property
    def _largest(self) -> dict[str, Any]:
        """Of each product's input, the largest magnitude of each column."""
        return largest_inputs(self._model, self.layers, self.calibrating(), self.bundle.manifest.padding or "")

    def calibrating(self) -> list[Feeds]:
        """The samples to find scales with, as the file takes them: a language model reads them with an empty cache."""
        if not is_decoder(self.bundle):
            return list(self.calibration)
        return [self._whole(feeds) for feeds in self.calibration]

    def _whole(self, feeds: Feeds) -> Feeds:
        (tokens,) = feeds.values()
        length = tokens.shape[1]
        fed = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(length, dtype=np.int64)[None],
            "logits_to_keep": np.array([length - 1], dtype=np.int64),
        }
        infos = [info for info in self.bundle.manifest.inputs if info.name not in fed]
        empty = {i.name: np.zeros([d if isinstance(d, int) else int(d == "batch") for d in i.dims], i.dtype) for i in infos}
        return {**fed, **empty}

    def write(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        """Write a candidate, its numbers to the file `weights` beside it; returns its domains."""
        if self.runtime.name == ORT:
            return self._write_onnx(kinds, path, weights)
        model = openvino_file.quantized(self.path, kinds, self.calibrating() if self._needs_data(kinds) else [])
        return openvino_file.write(model, path, path.parent / weights, self._note(weights))

    def _write_onnx(self, kinds: Kinds, path: Path, weights: str) -> dict[str, int]:
        model = self._model
        if smoothed := {layer for layer, kind in kinds.items() if kind.calibrated}:
            model = onnx_file.copied(model)
            smooth(model, smoothed, self._largest)
        model = onnx_file.quantized(model, kinds)
        onnx_file.write(model, path, weights)
        return onnx_file.domains(model)

    def _needs_data(self, kinds: Kinds) -> bool:
        return any(kind.calibrated for kind in kinds.values())

    def _note(self, weights: str) -> Note:
        found = read_ir(self.path).note() if self.path.suffix == SUFFIX else None
        if found is not None:
            return replace(found, weights=weights)
        manifest = self.bundle.manifest
        takes = openvino_file.input_names(self.path)
        return Note(weights, tuple(info for info in manifest.inputs if info.name in takes), manifest.outputs, {})

    @property
    def suffix(self) -> str:
        """Of the files written."""
        return ".onnx" if self.runtime.name == ORT else SUFFIX

    def load(self, path: Path, rounds: bool) -> Session:
        """A session of a file, as the bundle's reader would open it."""
        options = LoadOptions(
            self.device, self.threads, spin=False, cache=self.flavour.cache, activations="int8" if rounds else FP32
        )
        return BundleSession([self.runtime.load(path, options)], self.bundle.manifest, [self.flavour])

    def time(self, session: Session, full: Session) -> Ratio:
        """Time of a run, or of a token behind 128 others (fewer where the model takes fewer), over that at full precision; interleaved."""
        if is_decoder(self.bundle):
            runs = [self._steps(each) for each in (session, full)]
            return compare_timings(*interleave(runs, _STEPS, _WARM_UP))
        feeds = make_feeds(self.bundle, resolve_sizes(self.bundle, None))
        return compare_timings(*interleave([partial(each.run, feeds) for each in (session, full)], _ROUNDS))

    def _steps(self, session: Session) -> Callable[[], object]:
        decoder = DecoderSession(session)
        behind = min(_BEHIND, max(1, window(self.bundle) - _STEPS - _WARM_UP))
        decoder.prefill(np.ones((1, behind), dtype=np.int64), all_logits=False)
        return lambda: decoder.decode([1])
