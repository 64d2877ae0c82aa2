"""A decoder on ONNX Runtime whose cache is int8: what comes in and goes out is fp32 all the same, as the bundle says."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Array, Effective
from edgeattn.runtimes.carrying import Carried
from edgeattn.runtimes.ort_session import NAME
from edgeattn.runtimes.ort_shared_cache import SharedCacheSession

SCALES = "edgeattn.cache_scales"
"""Key in a model's metadata."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What 1 stands for in each past and present, by name: (K, D), for each channel of a head."""

    of: Mapping[str, Array]

    def dumps(self) -> str:
        """As the file's metadata hold it."""
        return json.dumps(
            {
                name: [list(scale.shape), base64.b64encode(scale.astype("<f4").tobytes()).decode()]
                for name, scale in self.of.items()
            }
        )

    @staticmethod
    def loads(text: str) -> Scales:
        """From the file's metadata. Raises ValueError for anything else."""
        found = {}
        for name, (shape, data) in json.loads(text).items():
            found[name] = np.frombuffer(base64.b64decode(data, validate=True), dtype="<f4").reshape(shape)
        return Scales(found)

    def seen(self, info: TensorInfo) -> TensorInfo:
        """An input or output as it is outside."""
        return replace(info, dtype="float32") if info.name in self.of else info

    def stored(self, name: str, array: Array) -> Array:
        """int8 of a past in fp32, (B, K, P, D)."""
        steps = np.rint(array / self.of[name][None, :, None])
        return np.asarray(np.clip(steps, -128, 127), dtype=np.int8)

    def restored(self, name: str, array: Array) -> Array:
        """fp32 of a present in int8, (B, K, T, D)."""
        return np.asarray(array * self.of[name][None, :, None], dtype=np.float32)


class SmallCacheSession(SharedCacheSession):
    """Pasts and presents are numbers of fp32 outside, rounded; a chain of runs keeps them in int8 and never turns them back."""

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective, session: Any) -> None:
        try:
            scales = Scales.loads(session.get_modelmeta().custom_metadata_map[SCALES])
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeRunError(
                f"{NAME}: the file does not say what its int8 cache stands for ({SCALES} in its metadata); export the model again"
            ) from error
        own, given = ([scales.seen(info) for info in infos] for infos in (inputs, outputs))
        super().__init__(own, given, effective, session)
        self.scales = scales

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        results = super()._run(self._stored(feeds))
        return {name: self.scales.restored(name, array) if name in self.scales.of else array for name, array in results.items()}

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        return super().carrying(pairs, self._stored(start))

    def _stored(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self.scales.stored(name, array) if name in self.scales.of else array for name, array in arrays.items()}
