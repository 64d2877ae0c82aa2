"""Save an OpenVINO model whose numbers are those of a weight file that is there already: nothing large is stored twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import onnx_ir as ir

from edgeattn.runtimes.vendor import import_openvino

_ALIGNMENT = 64
"""Bytes; as OpenVINO aligns what it allocates itself."""


def save(model: Any, path: Path, weights: Path, stored: Iterable[ir.ExternalTensor]) -> None:
    """Write `model` as XML to `path`, its numbers found in or appended to `weights`, which holds the tensors `stored`."""
    with TemporaryDirectory(dir=path.parent) as folder:
        own = Path(folder) / "own.bin"
        import_openvino().serialize(model, str(path), str(own))
        places = _Places(weights, stored)
        tree = ElementTree.parse(path)
        with own.open("rb") as numbers:
            for data in tree.iterfind(".//layer[@type='Const']/data"):
                numbers.seek(int(data.attrib["offset"]))
                data.set("offset", str(places.of(numbers.read(int(data.attrib["size"])))))
    places.write()
    tree.write(path, encoding="utf-8", xml_declaration=True)


class _Places:
    """Offsets in the weight file by content."""

    def __init__(self, weights: Path, stored: Iterable[ir.ExternalTensor]) -> None:
        self._weights = weights
        self._end = weights.stat().st_size if weights.exists() else 0
        self._new: list[tuple[int, bytes]] = []
        self._offsets: dict[bytes, int] = {}
        for tensor in stored:
            self._offsets.setdefault(_digest(tensor.tobytes()), tensor.offset or 0)

    def of(self, numbers: bytes) -> int:
        """Where they are, or will be."""
        digest = _digest(numbers)
        if digest not in self._offsets:
            start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
            self._offsets[digest], self._end = start, start + len(numbers)
            self._new.append((start, numbers))
        return self._offsets[digest]

    def write(self) -> None:
        """Append what was not there."""
        with self._weights.open("ab") as file:
            for start, numbers in self._new:
                file.write(bytes(start - file.tell()))
                file.write(numbers)


def _digest(numbers: bytes) -> bytes:
    return hashlib.sha256(numbers).digest()
