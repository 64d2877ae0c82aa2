"""Inputs and outputs of an ONNX file, read without the onnx package.

OpenVINO forgets the names of dynamic dimensions and sometimes renames inputs; the file knows both. Only the few
fields below are looked at: the protobuf wire format lets everything else, weights included, be stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import tensor_info

# wire types of protobuf
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
_EMPTY = memoryview(b"")

# field numbers of onnx.proto
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE, _DIM_PARAM = 1, 2

# onnx.TensorProto.DataType, those that numpy has
_ELEMENTS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def read_io(path: Path) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """(inputs, outputs) of the graph in order; inputs that only name a weight are left out.

    A value without a shape in the file has the dims (); a value's unnamed dimension is `<name>_<axis>`.

    Raises:
        RuntimeRunError: the file is not an ONNX model, or a value is no tensor that numpy can hold.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        graph = dict(_fields(data))[_MODEL_GRAPH]
        weights, inputs, outputs = _graph_values(_bytes(graph))
        kept = [value for value in inputs if _text(value, _VALUE_NAME) not in weights]
        return [_info(path, value) for value in kept], [_info(path, value) for value in outputs]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise RuntimeRunError(f"{path.name} is not a complete ONNX model ({type(error).__name__}: {error})") from error


def _graph_values(graph: memoryview) -> tuple[set[str], list[memoryview], list[memoryview]]:
    """Names of the weights, and the ValueInfo messages of inputs and outputs."""
    weights: set[str] = set()
    values: dict[int, list[memoryview]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            weights.add(_text(_bytes(value), _TENSOR_NAME))
        elif number in values:
            values[number].append(_bytes(value))
    return weights, values[_GRAPH_INPUT], values[_GRAPH_OUTPUT]


def _info(path: Path, value: memoryview) -> TensorInfo:
    name = _text(value, _VALUE_NAME)
    kind = dict(_fields(_message(value, _VALUE_TYPE)))
    tensor = dict(_fields(_bytes(kind.get(_TYPE_TENSOR, _EMPTY))))
    element = tensor.get(_TENSOR_ELEMENT)
    if element not in _ELEMENTS:
        raise RuntimeRunError(f"{path.name}: {name!r} is no tensor that numpy can hold (element type {element})")
    shape = _bytes(tensor.get(_TENSOR_SHAPE, _EMPTY))
    return tensor_info(name, _ELEMENTS[element], [_dim(_bytes(dim)) for number, dim in _fields(shape) if number == _SHAPE_DIM])


def _dim(message: memoryview) -> int | str | None:
    fields = dict(_fields(message))
    if _DIM_VALUE in fields:
        value = fields[_DIM_VALUE]
        return value if isinstance(value, int) else None
    return _text(message, _DIM_PARAM) or None


def _message(message: memoryview, number: int) -> memoryview:
    return _bytes(dict(_fields(message)).get(number, _EMPTY))


def _text(message: memoryview, number: int) -> str:
    return str(_message(message, number), "utf-8")


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message is expected")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of one message. Raises ValueError or IndexError where the bytes do not hold together."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _LENGTH:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + size > len(data):
            raise ValueError("truncated")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at `at`, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")
