"""What ONNX Runtime reads and writes in a decoder's steps: bound once and used again, since a call to bind costs as much as an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Array
from edgeattn.runtimes.carrying import Axis, axis_of

_COPIED = 1 << 20
"""Bytes of an output up to which a copy of it is quicker than to bind a new array for it."""


class StepBinding:
    """A binding of `session` that has `buffers` as past and, by `pairs`, as present, and `fixed` as inputs of every run. It holds
    addresses of all of them: they have to stay where they are. `fed` are the other inputs, `given` the other outputs."""

    def __init__(
        self,
        session: Any,
        buffers: Mapping[str, Array],
        pairs: Mapping[str, str],
        fixed: Mapping[str, Array],
        fed: Sequence[TensorInfo],
        given: Sequence[TensorInfo],
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._given = {info.name: (np.dtype(info.dtype), [_source(dim, fed) for dim in info.dims]) for info in given}
        self._unsized = [name for name, (_, sources) in self._given.items() if None in sources]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._read: dict[str, Array] = {}
        self._written: dict[str, Array] = {}
        for name in self._unsized:
            self._binding.bind_output(name)  # first, so that they come first
        for present, past in pairs.items():
            self._bind(self._binding.bind_input, past, buffers[past])
            self._bind(self._binding.bind_output, present, buffers[past])
        for name, array in fixed.items():
            self._bind(self._binding.bind_input, name, array)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; the outputs that are no present, which are the caller's. Raises what ONNX Runtime raises."""
        for name, array in feeds.items():
            self._feed(name, array)
        results = {name: self._room(name, feeds) for name in self._given if name not in self._unsized}
        for name in self._unsized:
            self._binding.bind_output(name)  # bound anew, since its shape is that of the run before
        self._session.run_with_iobinding(self._binding)
        found = self._binding.get_outputs_as_ortvaluevector() if self._unsized else ()
        unsized = {name: found[number].numpy() for number, name in enumerate(self._unsized)}
        return {**unsized, **{name: array.copy() if name in self._written else array for name, array in results.items()}}

    def _feed(self, name: str, array: Array) -> None:
        """From an array of ours where the shape is that of the step before, else as it is: a mask grows, a token does not."""
        held = self._read.get(name)
        if held is not None and held.shape == array.shape:
            held[...] = array
        elif self._shapes.get(name) == array.shape:
            ours = array.copy()
            self._bind(self._binding.bind_input, name, ours)
            self._read[name] = ours
        else:
            self._read.pop(name, None)
            self._binding.bind_cpu_input(name, array)
        self._shapes[name] = array.shape

    def _room(self, name: str, feeds: Mapping[str, Array]) -> Array:
        """Where an output is written: into an array of ours that stays, or, where it is large, into one that the caller gets."""
        dtype, sources = self._given[name]
        shape = tuple(source.size(feeds) if isinstance(source, Axis) else source for source in sources if source is not None)
        held = self._written.get(name)
        if held is not None and held.shape == shape:
            return held
        room: Array = np.empty(shape, dtype)
        self._written.pop(name, None)
        self._bind(self._binding.bind_output, name, room)
        if room.nbytes <= _COPIED:
            self._written[name] = room
        return room

    def _bind(self, bind: Any, name: str, array: Array) -> None:
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _source(dim: int | str, fed: Sequence[TensorInfo]) -> int | Axis | None:
    """Where the size of an output is known from; None where feeds do not tell it."""
    return dim if isinstance(dim, int) else axis_of(dim, fed)
