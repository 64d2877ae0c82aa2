"""One run of an OpenVINO infer request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.runtimes.base import Array
from edgeattn.runtimes.vendor import import_openvino


def run(request: Any, feeds: Mapping[Any, Array]) -> None:
    """Run on feeds by name or by number. Raises what OpenVINO raises.

    All work is done by the runtime's own threads. `infer` takes the caller's for one of them, and a decoder's step is then a little
    slower.
    """
    tensor = import_openvino().Tensor
    shared = {name: tensor(array, shared_memory=True) if _shareable(array) else array for name, array in feeds.items()}
    request.start_async(shared, share_inputs=True)
    request.wait()


def _shareable(array: Array) -> bool:
    """Whether a tensor can be made on an array's memory. OpenVINO's Python makes them too, and asks the model about every array
    first; it is left the others."""
    return array.ndim > 0 and array.flags.writeable
