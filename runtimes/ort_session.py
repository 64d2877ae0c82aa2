"""Sessions of ONNX Runtime: feeds in, results out, and what is carried from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Array, Effective, Session, wrap_failure
from edgeattn.runtimes.carrying import Carried, last
from edgeattn.runtimes.vendor import import_onnxruntime

NAME = "onnxruntime"


class OrtSession(Session):
    """Feeds go in as they are: validated arrays are C-contiguous and of the input's dtype."""

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective, session: Any) -> None:
        super().__init__(inputs, outputs, effective)
        self._session = session
        self._names = [info.name for info in outputs]

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(NAME, "run the model", error) from error

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        return _Bound(self, pairs, start)

    def _close(self) -> None:
        self._session = None


class _Bound(Carried[dict[str, Any]]):
    """What is carried stays ONNX Runtime's own values: an output is bound as the next input, and nothing is copied."""

    session: OrtSession

    def _hold(self, values: Mapping[str, Array]) -> dict[str, Any]:
        ort = import_onnxruntime()
        return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in values.items()}

    def _advance(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Any]]:
        session = self.session._session
        binding = session.io_binding()
        try:
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name, value in self._state.items():
                binding.bind_ortvalue_input(name, value)
            for name in (*self._given, *self._pairs):
                binding.bind_output(name)
            session.run_with_iobinding(binding)
            values = binding.get_outputs()
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(NAME, "run the model", error) from error
        count = len(self._given)
        state = dict(zip(self._pairs.values(), values[count:], strict=True))
        return {name: value.numpy() for name, value in zip(self._given, values[:count], strict=True)}, {**self._state, **state}

    def _shortened(self, count: int) -> dict[str, Any]:
        carried = {name: last(self._state[name].numpy(), count) for name in self._pairs.values()}
        return {**self._state, **self._hold(carried)}
