"""A plain aligned table: nothing but text, so that a device needs no terminal library."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import east_asian_width


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns two spaces apart under a ruled header; those named in `right` are flush right (numbers).

    Raises:
        ValueError: a row whose length is not that of the headers.
    """
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"every row needs {len(headers)} cells")
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]
    flush = [header in right for header in headers]
    lines = [_line(row, widths, flush) for row in [list(headers), ["-" * width for width in widths], *cells]]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], flush: Sequence[bool]) -> str:
    padded = []
    for cell, width, right in zip(cells, widths, flush, strict=True):
        space = " " * (width - _width(cell))
        padded.append(space + cell if right else cell + space)
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
