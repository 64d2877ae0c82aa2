"""The protobuf wire format, as far as reading needs it: everything that is not looked at is stepped over, weights included."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

VARINT, LENGTH = 0, 2
"""Wire types: a number, and bytes of a given length."""
EMPTY = memoryview(b"")
_FIXED = {1: 8, 5: 4}
"""Wire type -> bytes, where those are always as many."""


def map_file(path: Path) -> memoryview:
    """The bytes of a file, read when they are looked at. Raises OSError, and ValueError for an empty file."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def message_at(message: memoryview, number: int) -> memoryview:
    """The message in a field; empty where it is not set."""
    return as_bytes(dict(fields(message)).get(number, EMPTY))


def text_at(message: memoryview, number: int) -> str:
    """The text in a field; empty where it is not set. Raises UnicodeDecodeError."""
    return str(message_at(message, number), "utf-8")


def as_bytes(value: memoryview | int) -> memoryview:
    """The value of a field that holds bytes. Raises TypeError for a number."""
    if isinstance(value, int):
        raise TypeError("a number where a message is expected")
    return value


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of one message. Raises ValueError or IndexError where the bytes do not hold together."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == LENGTH:
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
