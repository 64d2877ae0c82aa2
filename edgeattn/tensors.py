"""Named arrays in a file: the safetensors format, read with bounds and without any code execution.

Layout (the safetensors specification): 8 bytes little-endian header size, a JSON header name -> dtype, shape,
data_offsets, then the bytes. Reading is our own so that a device needs numpy alone.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import BundleError

Array = NDArray[Any]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 1 << 20
_MAX_RANK = 16
_METADATA = "__metadata__"


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write `tensors` in name order. Raises BundleError for a name or dtype that the format cannot hold."""
    if _METADATA in tensors:
        raise BundleError(f"cannot store a tensor named {_METADATA!r}: the format keeps that name for itself")
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise BundleError(f"cannot store {name!r}: dtype {array.dtype} is not one of {', '.join(map(str, _NAMES))}")
        data = array.astype(dtype, copy=False).tobytes()
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.writelines(chunks)


def read_tensors(path: Path) -> dict[str, Array]:
    """The arrays of a file that `write_tensors`, or the safetensors library, wrote.

    Raises:
        BundleError: the file is truncated, its header is oversized or lies about shapes, offsets or dtypes.
    """
    raw = path.read_bytes()
    if len(raw) < 8:
        raise BundleError(f"{path.name}: not a tensor file: {len(raw)} bytes, the header alone has 8")
    (size,) = struct.unpack_from("<Q", raw)
    if size > min(_MAX_HEADER, len(raw) - 8):
        raise BundleError(f"{path.name}: header of {size} bytes does not fit a file of {len(raw)} (limit {_MAX_HEADER})")
    try:
        header = json.loads(raw[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}: header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path.name}: header must map names to tensors, got {type(header).__name__}")
    body = memoryview(raw)[8 + size :]
    return {name: _view(path.name, name, entry, body) for name, entry in header.items() if name != _METADATA}


def _view(file: str, name: str, entry: Any, body: memoryview) -> Array:
    try:
        dtype, shape, (start, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, end]
        sound = isinstance(shape, list) and len(shape) <= _MAX_RANK and all(_is_size(n) for n in numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{file}: entry {name!r} is malformed: {error!r}") from error
    if not sound or not start <= end <= len(body) or end - start != math.prod(shape) * dtype.itemsize:
        raise BundleError(f"{file}: entry {name!r}: shape {shape} of {dtype} does not fit bytes {start}..{end} of {len(body)}")
    if dtype == np.bool_ and np.frombuffer(body[start:end], dtype=np.uint8).max(initial=0) > 1:
        raise BundleError(f"{file}: entry {name!r}: a bool must be stored as 0 or 1")
    return np.frombuffer(body[start:end], dtype=dtype).reshape(shape)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48
