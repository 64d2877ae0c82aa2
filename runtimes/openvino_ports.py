"""What OpenVINO says of a model's inputs and outputs, and of errors, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import tensor_info
from edgeattn.runtimes.onnx_io import read_io

_ELEMENTS = {
    "f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip


def match(path: Path, ports: Sequence[Any], which: int) -> list[TensorInfo]:
    """The infos of `ports`, in their order, under the names and dynamic dimensions of the file (`which`: 0 in, 1 out).

    OpenVINO keeps the order, forgets the names of dimensions, and gives a port that two values share one name of them.
    """
    own = [tensor_info(_name(port), _dtype(port), _dims(port)) for port in ports]
    if path.suffix != ".onnx":
        return own
    filed = read_io(path)[which]
    if len(filed) != len(ports):
        kind = ("inputs", "outputs")[which]
        raise RuntimeRunError(f"openvino: {path.name} has {len(filed)} {kind}, the compiled model {len(ports)}")
    pairs = zip(_in_port_order(filed, ports), own, strict=True)
    return [info if info.dims else TensorInfo(info.name, info.dtype, port.dims) for info, port in pairs]


def _in_port_order(filed: Sequence[TensorInfo], ports: Sequence[Any]) -> list[TensorInfo]:
    if all(info.name in port.get_names() for info, port in zip(filed, ports, strict=True)):
        return list(filed)
    left = {info.name: info for info in filed}
    known = [next((left.pop(name) for name in sorted(port.get_names()) if name in left), None) for port in ports]
    renamed = iter(left.values())
    return [info or next(renamed) for info in known]


def _name(port: Any) -> str:
    return str(min(port.get_names(), default=port.get_node().get_friendly_name()))


def _dims(port: Any) -> list[int | None]:
    shape = port.get_partial_shape()
    return [] if shape.rank.is_dynamic else [dim.get_length() if dim.is_static else None for dim in shape]


def _dtype(port: Any) -> str:
    kind = port.get_element_type()
    if kind.get_type_name() not in _ELEMENTS:
        raise RuntimeRunError(f"openvino: {_name(port)!r} is of type {kind.get_type_name()}, which numpy cannot hold")
    return _ELEMENTS[kind.get_type_name()]


def cause(error: Exception) -> Exception:
    """The error without the lines that name OpenVINO's own source files."""
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Summary:")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(noise)]
    return RuntimeError(" ".join(lines[:3])) if lines else error
