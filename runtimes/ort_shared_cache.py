"""A decoder on ONNX Runtime that writes new keys and values into the buffer which it reads: nothing is copied for a step.

The buffers are ours, numpy arrays with room to grow; the operator gets their addresses as past and as present alike, and the
length from the mask. On the CPU it takes a chunk behind a past for one row only, so several rows run in turn, each on its
part of the buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgeattn.manifest import PAST, TensorInfo
from edgeattn.runtimes.base import Array, wrap_failure
from edgeattn.runtimes.carrying import LENGTH, Axis, Carried, total_axis
from edgeattn.runtimes.heap import pages
from edgeattn.runtimes.ort_binding import StepBinding
from edgeattn.runtimes.ort_session import NAME, OrtSession

ROOM = 256
"""Positions by which buffers grow, one at a time: a small part of a step's time, and little memory that is not used."""


class SharedCacheSession(OrtSession):
    """`run` keeps to the names of the file: past in, present out. `carrying` shares buffers."""

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        past = next(feeds[info.name].shape[LENGTH] for info in self.inputs if _is_past(info))
        rows = self.rows.size(feeds)
        if rows == 1 or past == 0 or total_axis(self).size(feeds) == past + 1:
            return super()._run(feeds)
        parts = [super(SharedCacheSession, self)._run(self.row(feeds, row)) for row in range(rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        return SharedCache(self, pairs, start)

    @cached_property
    def rows(self) -> Axis:
        """Where what is no past tells B."""
        return next(Axis(info.name, 0) for info in self.inputs if self._has_rows(info) and not _is_past(info))

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
    _bound: tuple[Mapping[str, Array], StepBinding] | None = None
    """Buffers, and the binding that has them as past and present."""

    def fork(self) -> Carried[_Buffers]:
        self._state = replace(self._state, own=False)
        return super().fork()

    def _hold(self, values: Mapping[str, Array]) -> _Buffers:
        arrays = {name: values[name] for name in self._pairs.values()}
        fixed = {name: np.asarray(array, order="C") for name, array in values.items() if name not in arrays}
        return _Buffers(arrays, fixed, next(iter(arrays.values())).shape[LENGTH], own=False)

    def _advance(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], _Buffers]:
        total = self._total.size(feeds)
        buffers = self._with_room(total)
        rows = self.session.rows.size({**buffers.fixed, **feeds})
        try:
            if rows == 1 or buffers.used == 0 or total == buffers.used + 1:
                results = self._binding(buffers.arrays, buffers.fixed).run(feeds)
            else:
                parts = [self._run_row(row, feeds, buffers) for row in range(rows)]
                results = {name: np.concatenate([part[name] for part in parts]) for name in self._given}
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(NAME, "run the model", error) from error
        return results, _Buffers(buffers.arrays, buffers.fixed, total, own=True)

    def _run_row(self, row: int, feeds: Mapping[str, Array], buffers: _Buffers) -> dict[str, Array]:
        fed, fixed = (self.session.row(arrays, row) for arrays in (feeds, buffers.fixed))
        return self._binding(dict(_cut(buffers.arrays, row)), fixed).run(fed)

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

    def _binding(self, buffers: Mapping[str, Array], fixed: Mapping[str, Array]) -> StepBinding:
        """With `buffers` as past and as present; that of the step before where these are the same."""
        if self._bound is not None and self._bound[0] is buffers:
            return self._bound[1]
        self._bound = None
        given = [info for info in self.session.outputs if info.name in self._given]
        binding = StepBinding(self.session._session, buffers, self._pairs, fixed, self._fed, given)
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
