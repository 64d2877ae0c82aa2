"""Inputs and outputs of an ONNX file, read without the onnx package.

OpenVINO forgets the names of dynamic dimensions and sometimes renames inputs; the file knows both. Only the few
fields below are looked at.
"""

from __future__ import annotations

from pathlib import Path

from edgeattn.errors import RuntimeRunError
from edgeattn.manifest import TensorInfo
from edgeattn.runtimes.base import tensor_info
from edgeattn.wire import EMPTY, as_bytes, fields, map_file, message_at, text_at

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
        graph = dict(fields(map_file(path)))[_MODEL_GRAPH]
        weights, inputs, outputs = _graph_values(as_bytes(graph))
        kept = [value for value in inputs if text_at(value, _VALUE_NAME) not in weights]
        return [_info(path, value) for value in kept], [_info(path, value) for value in outputs]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise RuntimeRunError(f"{path.name} is not a complete ONNX model ({type(error).__name__}: {error})") from error


def _graph_values(graph: memoryview) -> tuple[set[str], list[memoryview], list[memoryview]]:
    """Names of the weights, and the ValueInfo messages of inputs and outputs."""
    weights: set[str] = set()
    values: dict[int, list[memoryview]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for number, value in fields(graph):
        if number == _GRAPH_INITIALIZER:
            weights.add(text_at(as_bytes(value), _TENSOR_NAME))
        elif number in values:
            values[number].append(as_bytes(value))
    return weights, values[_GRAPH_INPUT], values[_GRAPH_OUTPUT]


def _info(path: Path, value: memoryview) -> TensorInfo:
    name = text_at(value, _VALUE_NAME)
    kind = dict(fields(message_at(value, _VALUE_TYPE)))
    tensor = dict(fields(as_bytes(kind.get(_TYPE_TENSOR, EMPTY))))
    element = tensor.get(_TENSOR_ELEMENT)
    if element not in _ELEMENTS:
        raise RuntimeRunError(f"{path.name}: {name!r} is no tensor that numpy can hold (element type {element})")
    shape = as_bytes(tensor.get(_TENSOR_SHAPE, EMPTY))
    return tensor_info(name, _ELEMENTS[element], [_dim(as_bytes(dim)) for number, dim in fields(shape) if number == _SHAPE_DIM])


def _dim(message: memoryview) -> int | str | None:
    given = dict(fields(message))
    if _DIM_VALUE in given:
        value = given[_DIM_VALUE]
        return value if isinstance(value, int) else None
    return text_at(message, _DIM_PARAM) or None
