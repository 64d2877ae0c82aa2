"""Runs that hand outputs on to the next run as inputs, such as a decoder's cache; a runtime may keep them where it wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from edgeattn.errors import UsageError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Array, Session, validate_feeds

State = TypeVar("State")

LENGTH = 2
"""Axis of positions of a decoder's cache, (B, K, P, D)."""


class Carried(Generic[State]):
    """A chain of runs. `pairs`: output name -> the input that it is in the next run. `start` has these inputs for the first
    run; any other input in it is given to every run.

    A step never changes what a fork holds. Template methods: `_hold`, `_advance` and `_shortened`.
    """

    def __init__(self, session: Session, pairs: Mapping[str, str], start: Mapping[str, Array]) -> None:
        self.session = session
        self._pairs = dict(pairs)
        self._fed = tuple(info for info in session.inputs if info.name not in {*self._pairs.values(), *start})
        self._given = [info.name for info in session.outputs if info.name not in self._pairs]
        self._start = dict(start)
        self._state = self._hold(self._start)

    def step(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on the inputs that are not carried; returns the outputs that are not. A failure leaves the state as it was.

        Raises:
            FeedError, RuntimeRunError: as `Session.run`.
            UsageError: the session is closed.
        """
        return self.advance(validate_feeds(self._fed, feeds))

    def advance(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """`step` with feeds that are C-contiguous and known to fit: they are not looked at, which takes longer than some operators."""
        if self.session._closed:
            raise UsageError("the session is closed; load the bundle again")
        outputs, self._state = self._advance(feeds)
        return outputs

    def reset(self) -> None:
        """Back to the start."""
        self._state = self._hold(self._start)

    def keep_last(self, count: int) -> None:
        """Forget all but the last `count` positions, on axis `LENGTH`, of what is carried."""
        self._state = self._shortened(count)

    def fork(self) -> Carried[State]:
        """Another chain that goes on from here."""
        other = type(self)(self.session, self._pairs, self._start)
        other._state = self._state
        return other

    @cached_property
    def _total(self) -> Axis:
        """As `total_axis` says."""
        return total_axis(self.session)

    def _hold(self, values: Mapping[str, Array]) -> State:
        """The start in the runtime's own form."""
        raise NotImplementedError

    def _advance(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], State]:
        """Run; the outputs and the new state."""
        raise NotImplementedError

    def _shortened(self, count: int) -> State:
        """The state with its last `count` positions alone."""
        raise NotImplementedError


class CarriedArrays(Carried[dict[str, Any]]):
    """For any runtime: the state is arrays, fed and read back as any other."""

    def _hold(self, values: Mapping[str, Array]) -> dict[str, Any]:
        return dict(values)

    def _advance(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Any]]:
        results = self.session._run({**feeds, **self._state})
        state = {target: results[name] for name, target in self._pairs.items()}
        return {name: results[name] for name in self._given}, {**self._state, **state}

    def _shortened(self, count: int) -> dict[str, Any]:
        carried = set(self._pairs.values())
        return {name: last(array, count) if name in carried else array for name, array in self._state.items()}


def last(array: Array, count: int) -> Array:
    """The last `count` positions of a cache's part, as an array of its own."""
    return array[:, :, array.shape[LENGTH] - count :].copy()


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a size is found among feeds."""

    name: str
    axis: int

    def size(self, feeds: Mapping[str, Array]) -> int:
        """Of what is fed."""
        return int(feeds[self.name].shape[self.axis])


def axis_of(dim: int | str, inputs: Iterable[TensorInfo]) -> Axis | None:
    """The first of `inputs` that has a dimension of this name, and which of its axes it is."""
    return next((Axis(info.name, info.dims.index(dim)) for info in inputs if dim in info.dims), None)


def total_axis(session: Session) -> Axis:
    """Where feeds tell how many positions are in the cache after a run: the axis of an input that has the present's length.

    Raises:
        UsageError: no input has it.
    """
    present = next(info.dims[LENGTH] for info in session.outputs if len(info.dims) == 4)
    found = axis_of(present, session.inputs)
    if found is None:
        raise UsageError(f"no input has the axis {present!r}, which says how much of a cache is used; export the model again")
    return found
