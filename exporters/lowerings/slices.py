"""Queries, or blocks of them, in a fixed number of slices whose bounds follow the length at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder


@dataclass(frozen=True, slots=True)
class Rows:
    """Those from `start` up to `end`, both 1-D int64 values; never none."""

    b: Builder
    start: ir.Value
    end: ir.Value

    def of(self, value: ir.Value, axis: int) -> ir.Value:
        """These positions of an axis that runs over them."""
        return self.b.op("Slice", value, self.start, self.end, self.b.ints(axis))


def sliced(b: Builder, length: ir.Value, count: int) -> list[Rows]:
    """`count` slices that cover `length` (1-D) and differ by one position at most.

    A length below `count` gives single positions, the last of them several times: runtimes do not agree on what operators
    make of a slice without any. `joined` drops what is there twice.
    """
    number = b.op("Constant", value=ir.tensor(np.arange(count + 1)))
    one = b.ints(1)
    even = b.op("Div", b.op("Mul", length, number), b.ints(count))
    bounds = b.op("Max", even, b.op("Min", number, b.op("Sub", length, one)))
    starts = b.op("Slice", bounds, b.ints(0), b.ints(count), b.ints(0))
    ends = b.op("Max", b.op("Slice", bounds, one, b.ints(count + 1), b.ints(0)), b.op("Add", starts, one))
    return [Rows(b, *(b.op("Gather", bounds, b.ints(i)) for bounds in (starts, ends))) for i in range(count)]


def joined(b: Builder, parts: Sequence[ir.Value], length: ir.Value, axis: int) -> ir.Value:
    """What was computed for each slice of `sliced`, along `axis`."""
    return b.op("Slice", b.op("Concat", *parts, axis=axis), b.ints(0), length, b.ints(axis))


def longest(length: int, count: int) -> int:
    """Positions of the longest of `count` slices."""
    return -(-length // count)
