"""A decoder on OpenVINO whose cache is the states of an infer request: nothing of it is fed or read back for a step.

Attention is fused with its cache there, so that a step writes what is new behind what is held. Where a bundle says so, the model is
compiled twice, with any sizes and with those of a single token: where sizes are not fixed, OpenVINO finds those of every operator anew in
each run, which took a sixth of a token's time. The numbers are the same, but for a cache in int8: OpenVINO gives its states in fp32, and rounds
what it is handed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.derived import is_derived
from edgeattn.manifest import PAST
from edgeattn.openvino_ir import Note
from edgeattn.runtimes.base import Array, Effective, Session, wrap_failure
from edgeattn.runtimes.carrying import LENGTH, Axis, Carried
from edgeattn.runtimes.heap import give_back
from edgeattn.runtimes.openvino_ports import cause
from edgeattn.runtimes.openvino_request import run
from edgeattn.runtimes.vendor import import_openvino

_PAID = 32
"""Positions of a cache that a single token pays for: to move them to the model of a token and back takes about as long as that saves."""
TIDY = 256
"""Positions after which what the plug-in freed goes back to the system: it makes its states anew, larger, as they grow."""


class StatefulSession(Session):
    """`run` takes the past and gives the present, as the note names them, through the states. `carrying` leaves them there. `token` is the
    model compiled for `token_shapes`, if it is."""

    def __init__(self, note: Note, effective: Effective, compiled: Any, token: Any = None) -> None:
        super().__init__(note.inputs, note.outputs, effective)
        self.variables = note.variables
        self._compiled = compiled
        self._token = token
        self._ones = [
            Axis(name, axis) for name, shape in token_shapes(note).items() for axis, size in enumerate(shape) if size == 1
        ]
        self._request = States(self, compiled.create_infer_request())

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        return StatefulChain(self, pairs, start)

    def states(self) -> States:
        """States of their own, with feeds of any size."""
        return States(self, self._compiled.create_infer_request())

    def token_states(self) -> States:
        """The same for one token of one row, where `reads_token`."""
        return States(self, self._token.create_infer_request())

    def reads_token(self, feeds: Mapping[str, Array]) -> bool:
        """Whether the model is compiled for feeds of this size too."""
        return self._token is not None and all(axis.size(feeds) == 1 for axis in self._ones)

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._request.set({past: feeds[past] for past in self.variables})
        results = self._request.infer({name: array for name, array in feeds.items() if name not in self.variables})
        held = self._request.read()
        return {**results, **{present: held[past] for past, (present, _) in self.variables.items()}}

    def _close(self) -> None:
        del self._request, self._compiled, self._token


def token_shapes(note: Note) -> dict[str, list[int]]:
    """Of each input that is no past, its shape where one token of one row is read; -1 where that says nothing, as of a mask."""
    free = {dim for info in note.inputs for dim in info.dims if isinstance(dim, str) and not is_derived(dim)} - {PAST}
    inputs = [info for info in note.inputs if info.name not in note.variables]
    return {info.name: [dim if isinstance(dim, int) else 1 if dim in free else -1 for dim in info.dims] for info in inputs}


class States:
    """An infer request of a session and its states, by the names of the pasts, (B, K, P, D)."""

    def __init__(self, session: StatefulSession, request: Any) -> None:
        self._runtime = session.effective.runtime
        self._request = request
        states = {state.name: state for state in self._request.query_state()}
        self._states = {past: states[name] for past, (_, name) in session.variables.items()}
        self._given = [info.name for info in session.outputs if info.name not in {p for p, _ in session.variables.values()}]
        self._held: dict[str, Array] = {}

    def set(self, arrays: Mapping[str, Array]) -> None:
        """Hold these arrays. Nothing at all, P = 0, is what a reset request begins with, whatever its rows."""
        if next(iter(arrays.values())).shape[LENGTH] == 0:
            self.forget()
            return
        tensor = import_openvino().Tensor
        for past, array in arrays.items():
            self._states[past].state = tensor(array)

    def take(self, other: States) -> None:
        """Hold what another request of the model holds, which is left with nothing."""
        for past, state in other._states.items():
            self._states[past].state = state.state
        other.forget()

    def forget(self) -> None:
        """Hold nothing."""
        self._request.reset_state()

    def read(self) -> dict[str, Array]:
        """Copies of the states; something must be held."""
        return {past: state.state.data.copy() for past, state in self._states.items()}

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on the inputs that are no past; the outputs that are no present."""
        changed = {name: array.copy() for name, array in feeds.items() if not self._refilled(name, array)}
        try:
            run(self._request, changed)
            self._held |= changed
            return {name: self._request.get_tensor(name).data.copy() for name in self._given}
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(self._runtime, "run the model", cause(error)) from error

    def _refilled(self, name: str, array: Array) -> bool:
        """Write an input into the array of ours that the request has for it, where that is of its shape: giving it another takes
        longer than some operators, and most inputs of a step have the shape that they had in the step before."""
        held = self._held.pop(name, None)
        if held is None or held.shape != array.shape:
            return False
        held[...] = array
        self._held[name] = held
        return True


class StatefulChain(Carried[int]):
    """The chain of runs in a request of its own, or in turn in two; what is kept here is the number of positions that it holds."""

    session: StatefulSession

    def __init__(self, session: StatefulSession, pairs: Mapping[str, str], start: Mapping[str, Array]) -> None:
        self._whole = self._states = session.states()
        self._single: States | None = None
        self._alone = 0
        super().__init__(session, pairs, start)

    def fork(self) -> Carried[int]:
        other = super().fork()
        assert isinstance(other, StatefulChain)
        if self._state:
            other._states.set(self._states.read())
        return other

    def _hold(self, values: Mapping[str, Array]) -> int:
        self._states.forget()
        self._states, self._alone = self._whole, 0
        self._states.set(values)
        return int(next(iter(values.values())).shape[LENGTH])

    def _advance(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        total = self._total.size(feeds)
        self._turn(self.session.reads_token(feeds))
        try:
            outputs = self._states.infer(feeds)
        except Exception:
            self._back()
            raise
        if total // TIDY > self._state // TIDY:
            give_back()
        return outputs, total

    def _turn(self, single: bool) -> None:
        """To the model that runs next. Tokens go to their own when so many came one by one that moving the cache has paid."""
        self._alone = self._alone + 1 if single else 0
        states = self._states if single else self._whole
        if self._alone * _PAID > self._state:
            states = self._single = self._single or self.session.token_states()
        if states is self._states:
            return
        if self._state:
            states.take(self._states)
        else:
            states.set(self._start)
        self._states = states

    def _back(self) -> None:
        """Some layers may have taken what is new before the run failed."""
        if self._state:
            held = self._states.read()
            self._states.set({past: array[:, :, : self._state].copy() for past, array in held.items()})
        else:
            self._states.set(self._start)

    def _shortened(self, count: int) -> int:
        held = self._states.read()
        self._states.set({past: array[:, :, self._state - count :].copy() for past, array in held.items()})
        return count
