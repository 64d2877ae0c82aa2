"""ONNX Runtime without graph optimizations: tells a faulty optimization from a faulty kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import (
    Array,
    Availability,
    Effective,
    LoadOptions,
    Runtime,
    Session,
    resolve_threads,
    tensor_info,
    wrap_failure,
)
from edgeattn.runtimes.vendor import availability, import_onnxruntime

NAME = "onnxruntime-unoptimized"
_NAMED = {"float": "float32", "double": "float64"}  # ONNX Runtime's names, where numpy has another
_DTYPES = {"float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}


class UnoptimizedOnnxRuntime(Runtime):
    """The CPU provider with every graph optimization off."""

    name: ClassVar[str] = NAME

    def check(self) -> Availability:
        """Whether the package imports, with its version. Never raises."""
        return availability("onnxruntime", import_onnxruntime, 'pip install "edgeattn[onnxruntime]"')

    @property
    def known_devices(self) -> tuple[str, ...]:
        """The CPU: its kernels are the ones that run every operator."""
        return ("cpu",)

    def devices(self) -> tuple[str, ...]:
        """The CPU, always."""
        return self.known_devices

    def _load(self, path: Path, options: LoadOptions) -> Session:
        ort = import_onnxruntime()
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.intra_op_num_threads = resolve_threads(options)
        settings.log_severity_level = 3
        if not options.spin:
            settings.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            raise wrap_failure(NAME, f"load {path.name}", error) from error
        return _Session(_infos(session.get_inputs()), _infos(session.get_outputs()), _effective(ort, session), session)


class _Session(Session):
    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective, session: Any) -> None:
        super().__init__(inputs, outputs, effective)
        self._session = session

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        names = [info.name for info in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            raise wrap_failure(NAME, "run the model", error) from error

    def _close(self) -> None:
        self._session = None


def _effective(ort: Any, session: Any) -> Effective:
    settings = session.get_session_options()
    level = settings.graph_optimization_level.name
    return Effective(
        NAME, ort.__version__, "cpu", settings.intra_op_num_threads, "fp32", "fp32", {"graph optimizations": level}
    )


def _infos(values: Sequence[Any]) -> list[TensorInfo]:
    return [tensor_info(value.name, _dtype(value), value.shape) for value in values]


def _dtype(value: Any) -> str:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = _NAMED.get(kind, kind)
    if dtype not in _DTYPES:
        raise RuntimeRunError(f"{NAME}: {value.name!r} is a {value.type}, which numpy cannot hold")
    return dtype
