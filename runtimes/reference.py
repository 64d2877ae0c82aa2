"""The ONNX reference evaluator: the operators' own definition, in numpy. Slow, and right.

It runs the canonical model, attention bodies and all, so it shows whether a difference lies in the graph or in a
runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import Array, Availability, Effective, LoadOptions, Runtime, Session, wrap_failure
from edgeattn.runtimes.onnx_io import read_io
from edgeattn.runtimes.vendor import availability


class Reference(Runtime):
    """onnx.reference.ReferenceEvaluator, on the CPU."""

    name: ClassVar[str] = "reference"
    canonical: ClassVar[bool] = True
    functions: ClassVar[bool] = True

    def check(self) -> Availability:
        """Whether the package imports, with its version. Never raises."""
        return availability("onnx", _import_onnx, 'pip install "edgeattn[export]"')

    @property
    def known_devices(self) -> tuple[str, ...]:
        """The CPU."""
        return ("cpu",)

    def devices(self) -> tuple[str, ...]:
        """The CPU."""
        return self.known_devices

    def _load(self, path: Path, options: LoadOptions) -> Session:
        onnx = _import_onnx()
        from onnx.reference import ReferenceEvaluator

        try:
            inputs, outputs = read_io(path)
            # load reads external data and keeps local functions
            evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[_gather_elements()])
        except Exception as error:  # protobuf, OS and operator errors share no base
            raise wrap_failure(self.name, f"load {path.name}", error) from error
        # One thread walks the graph, whatever was asked; numpy's BLAS has a count of its own that cannot be set from here.
        effective = Effective(self.name, onnx.__version__, "cpu", 1, "fp32", "fp32", {"matmul": "numpy"})
        return _ReferenceSession(inputs, outputs, effective, evaluator)


class _ReferenceSession(Session):
    def __init__(
        self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective, evaluator: Any
    ) -> None:
        super().__init__(inputs, outputs, effective)
        self._evaluator = evaluator

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        names = [info.name for info in self.outputs]
        try:
            values = self._evaluator.run(names, feeds)
        except Exception as error:  # numpy and operator errors share no base
            raise wrap_failure(self.effective.runtime, "run the model", error) from error
        # A copy: an Unsqueeze, a Slice, a Transpose give a view of the caller's feed or of the evaluator's weights.
        return dict(zip(names, (np.array(value) for value in values), strict=True))

    def _close(self) -> None:
        self._evaluator = None


def _gather_elements() -> Any:
    """GatherElements. The evaluator's own takes one index per row where there are more than numpy.choose has room for."""
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
            return (np.take_along_axis(data, indices, axis),)

    return GatherElements


def _import_onnx() -> Any:
    import onnx

    return onnx
