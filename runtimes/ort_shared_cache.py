"""A decoder on ONNX Runtime that writes new keys and values into the buffer which it reads: nothing is copied for a step.

The buffers are ours, numpy arrays with room to grow; the operator gets their addresses as past and as present alike, and the
length from the mask. On the CPU it takes a chunk behind a past for one row only, so several rows run in turn, each on its
part of the buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeattn.manifest import PAST, TensorInfo
from edgeattn.runtimes.base import Array, wrap_failure
from edgeattn.runtimes.carrying import LENGTH, Carried, total_length
from edgeattn.runtimes.heap import pages
from edgeattn.runtimes.ort_session import NAME, OrtSession

ROOM = 256
"""Positions by which buffers grow, one at a time: a small part of a step's time, and little memory that is not used."""


class SharedCacheSession(OrtSession):
    """`run` keeps to the names of the file: past in, present out. `carrying` shares buffers."""

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        past = next(feeds[info.name].shape[LENGTH] for info in self.inputs if _is_past(info))
        rows = self.rows(feeds)
        if rows == 1 or past == 0 or total_length(self, feeds) == past + 1:
            return super()._run(feeds)
        parts = [super(SharedCacheSession, self)._run(self.row(feeds, row)) for row in range(rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        return SharedCache(self, pairs, start)

    def rows(self, feeds: Mapping[str, Array]) -> int:
        """B."""
        return next(int(feeds[info.name].shape[0]) for info in self.inputs if info.name in feeds and self._has_rows(info))

    def row(self, feeds: Mapping[str, Array], row: int) -> dict[str, Array]:
        """Row `row` of every feed that has rows."""
        cut = {info.name for info in self.inputs if self._has_rows(info)}
        return {name: array[row : row + 1] if name in cut else array for name, array in feeds.items()}

    def _has_rows(self, info: TensorInfo) -> bool:
        batch = next(other.dims[0] for other in self.inputs if _is_past(other))
        return bool(info.dims) and info.dims[0] == batch


def _is_past(info: TensorInfo) -> bool:
    return len(info.dims) == 4 and info.dims[LENGTH] == PAST


@dataclass(frozen=True, slots=True)
class _Buffers:
    """`arrays`: input name -> (B, K, C, D), of which `used` positions hold something. `own`: no fork holds them too. `fixed`
    inputs are given to every run."""

    arrays: dict[str, Array]
    fixed: dict[str, Array]
    used: int
    own: bool


class SharedCache(Carried[_Buffers]):
    """The chain of runs on shared buffers. A fork shares them until one of the two goes on, which then copies."""

    session: SharedCacheSession
    _bound: tuple[Mapping[str, Array], Any] | None = None
    """Buffers, and the binding that has them as past and present."""

    def fork(self) -> Carried[_Buffers]:
        self._state = replace(self._state, own=False)
        return super().fork()

    def _hold(self, values: Mapping[str, Array]) -> _Buffers:
        arrays = {name: values[name] for name in self._pairs.values()}
        fixed = {name: array for name, array in values.items() if name not in arrays}
        return _Buffers(arrays, fixed, next(iter(arrays.values())).shape[LENGTH], own=False)

    def _advance(self, feeds: dict[str, Array]) -> tuple[dict[str, Array], _Buffers]:
        total = total_length(self.session, feeds)
        buffers = self._with_room(total)
        feeds = {**buffers.fixed, **feeds}
        rows = self.session.rows(feeds)
        try:
            if rows == 1 or buffers.used == 0 or total == buffers.used + 1:
                results = self._step(feeds, buffers.arrays)
            else:
                parts = [self._step(self.session.row(feeds, row), dict(_cut(buffers.arrays, row))) for row in range(rows)]
                results = {name: np.concatenate([part[name] for part in parts]) for name in self._given}
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(NAME, "run the model", error) from error
        return results, replace(buffers, used=total)

    def _with_room(self, total: int) -> _Buffers:
        """The buffers, or longer copies of them, that hold `total` positions and may be written."""
        state = self._state
        # grown one after the other: the first and the last are of one length unless memory ended between them
        first, last = next(iter(state.arrays.values())), next(reversed(state.arrays.values()))
        if state.own and first.shape[LENGTH] == last.shape[LENGTH] >= total:
            return state
        self._bound = None  # it knows the addresses of what is freed here, also where memory ends halfway
        grown = {}
        for name, array in state.arrays.items():
            grown[name] = _buffer(array[:, :, : state.used], total)
            if state.own:
                state.arrays[name] = grown[name]  # the old one is freed before the next is made
        return replace(state, arrays=grown, own=True)

    def _shortened(self, count: int) -> _Buffers:
        state, self._bound = self._state, None
        arrays = state.arrays.items()
        kept = {name: _buffer(array[:, :, state.used - count : state.used], count) for name, array in arrays}
        return replace(state, arrays=kept, used=count, own=True)

    def _step(self, feeds: Mapping[str, Array], buffers: Mapping[str, Array]) -> dict[str, Array]:
        binding = self._binding(buffers)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in self._given:
            binding.bind_output(name)  # bound anew, since its shape is that of the run before
        self.session._session.run_with_iobinding(binding)
        found = binding.get_outputs_as_ortvaluevector()
        return {name: found[number].numpy() for number, name in enumerate(self._given)}

    def _binding(self, buffers: Mapping[str, Array]) -> Any:
        """With `buffers` as past and as present; the one of the step before where these are the same, since binding two tensors
        for each layer costs as much as several operators."""
        if self._bound is not None and self._bound[0] is buffers:
            return self._bound[1]
        self._bound = None
        binding = self.session._session.io_binding()
        for name in self._given:
            binding.bind_output(name)  # first, so that they come first
        for present, past in self._pairs.items():
            array = buffers[past]
            place = (array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_input(past, "cpu", 0, *place)
            binding.bind_output(present, "cpu", 0, *place)
        self._bound = (buffers, binding)
        return binding


def _buffer(held: Array, total: int) -> Array:
    """A buffer with room for `total` positions, or some more, that begins with what is `held`, (B, K, P, D)."""
    room = -(-total // ROOM) * ROOM
    buffer = pages((*held.shape[:LENGTH], room, *held.shape[LENGTH + 1 :]), held.dtype)
    buffer[:, :, : held.shape[LENGTH]] = held
    return buffer


def _cut(buffers: Mapping[str, Array], row: int) -> Iterator[tuple[str, Array]]:
    """One row of every buffer, in place."""
    for name, array in buffers.items():
        yield name, array[row : row + 1]
