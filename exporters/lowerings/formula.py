"""A pattern's formula as graph values: the operators that `edgeattn.patterns` writes in, recorded as nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.slices import Rows
from edgeattn.patterns import Alignment


class Term:
    """An integer or bool value that Python's operators extend."""

    def __init__(self, b: Builder, value: ir.Value) -> None:
        self.b = b
        self.value = value

    def __add__(self, other: Term | int) -> Term:
        return self._with("Add", other)

    def __sub__(self, other: Term | int) -> Term:
        return self._with("Sub", other)

    def __mod__(self, other: Term | int) -> Term:
        return self._with("Mod", other)

    def __floordiv__(self, other: Term | int) -> Term:
        """Of positions, which are never negative: ONNX cuts towards zero."""
        return self._with("Div", other)

    def __le__(self, other: Term | int) -> Term:
        return self._with("LessOrEqual", other)

    def __lt__(self, other: Term | int) -> Term:
        return self._with("Less", other)

    def __ge__(self, other: Term | int) -> Term:
        return self._with("GreaterOrEqual", other)

    def __eq__(self, other: object) -> Term:  # type: ignore[override]
        assert isinstance(other, Term | int)
        return self._with("Equal", other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Term) -> Term:
        return self._with("And", other)

    def __or__(self, other: Term) -> Term:
        return self._with("Or", other)

    def _with(self, op_type: str, other: Term | int) -> Term:
        right = other.value if isinstance(other, Term) else self.b.index(other)
        return Term(self.b, self.b.op(op_type, self.value, right))


@dataclass(frozen=True, slots=True)
class GraphPlaces:
    """`edgeattn.patterns.Places` in a graph: queries and keys of two values with their lengths on axis 2; of the queries
    only `rows`, where given."""

    b: Builder
    q: ir.Value
    k: ir.Value
    square: bool
    prefix_input: ir.Value | None = None
    rows: Rows | None = None

    @property
    def keys(self) -> Term:
        return Term(self.b, self._range(self.k, 0))

    @property
    def prefix(self) -> Term:
        assert self.prefix_input is not None
        return Term(self.b, self.b.op("Unsqueeze", self.prefix_input, self.b.ints(1, 2, 3)))

    def queries(self, alignment: Alignment = "upper_left") -> Term:
        positions = self._range(self.q, 1)
        rows = Term(self.b, positions if self.rows is None else self.rows.of(positions, 0))
        if alignment == "upper_left" or self.square:
            return rows
        return rows + Term(self.b, self.b.op("Sub", self.b.size(self.k, 2), self.b.size(self.q, 2)))

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Term, columns: Term) -> Term:
        b = self.b
        bits = b.op(
            "Constant", value=ir.tensor(np.array([[[entry == "1" for entry in row] for row in head] for head in table]))
        )
        picked = b.op("Gather", bits, b.op("Squeeze", rows.value, b.ints(1)), axis=1)
        return Term(b, b.op("Gather", picked, b.op("Squeeze", columns.value, b.ints(0)), axis=2))

    def _range(self, value: ir.Value, axis: int) -> ir.Value:
        """0, 1, ... along the other axis of two."""
        b = self.b
        count = b.op("Range", b.index(0), b.op("Squeeze", b.size(value, 2)), b.index(1))
        return b.op("Unsqueeze", count, b.ints(axis))
