"""Sliding-window attention in O(S W): queries in blocks, each against its own and the neighbouring key blocks.

With a causal window of W keys a dense form does S T work for S W results. Here a block of queries meets only the key
blocks that the window can reach, so time and memory grow linearly with the length (cf. Longformer, Beltagy et al. 2020,
section 3.1, and the local attention of BigBird, Zaheer et al. 2020, appendix D).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands, beyond_softmax
from edgeattn.exporters.lowerings.decomposed import capped
from edgeattn.spec import AttentionSpec, SlidingWindow

BLOCK = 128
_REACH = 8
"""Key blocks beside its own that a query block may meet; a wider window gets larger blocks."""


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Block size, and how many key blocks to the left and right of its own a query block meets."""

    size: int
    before: int
    after: int

    @classmethod
    def of(cls, window: SlidingWindow) -> _Blocks:
        left, right = window.left or 0, window.right or 0
        size = BLOCK * max(1, -(-(left + right) // (BLOCK * _REACH)))
        return cls(size, -(-left // size), -(-right // size))

    @property
    def met(self) -> int:
        return self.before + 1 + self.after

    @property
    def width(self) -> int:
        return self.met * self.size


class BlockedWindow(Lowering):
    """n = ceil(S / block) blocks; scores are (B, K, n, G * block, width), width = the key blocks met."""

    name = "blocked"
    summary = "a sliding window in blocks of queries, each against the key blocks it can see: O(S W)"
    takes = "sliding windows bounded on both sides, equal lengths, key padding or no mask, no bias"

    def accepts(self, core: Core) -> str | None:
        spec = core.spec
        if reason := beyond_softmax(spec):
            return reason
        if not isinstance(spec.pattern, SlidingWindow):
            return "it is for sliding windows"
        if spec.pattern.left is None or spec.pattern.right is None:
            return "the window has no limit on one side"
        if not core.square:
            return "the graph does not show that query and key length are equal"
        return "it takes no mask but key padding, and no bias" if spec.mask in ("dense", "document") or spec.bias else None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        assert isinstance(spec.pattern, SlidingWindow)
        blocks = _Blocks.of(spec.pattern)
        length = b.size(x.q, 2)
        missing = b.op("Mod", b.op("Neg", length), b.ints(blocks.size))  # up to a whole number of blocks
        q = _queries(b, spec, blocks, x.q, missing)
        k, v = (_keys(b, blocks, value, missing) for value in (x.k, x.v))
        scores = capped(b, spec, b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 2, 4, 3)), b.number(spec.scale)))
        additive, nonempty = _visibility(b, spec.pattern, blocks, length, missing, x.mask)
        # (B, K, n, G, block, width): the group's queries share positions, so the mask is the same for each
        scores = b.op("Add", b.reshape(scores, 0, 0, 0, spec.group, blocks.size, blocks.width), additive)
        weights = b.reshape(b.op("Softmax", scores, axis=-1), 0, 0, 0, spec.group * blocks.size, blocks.width)
        context = b.reshape(b.op("MatMul", weights, v), 0, 0, 0, spec.group, blocks.size, spec.value_head_dim)
        if nonempty is not None:
            context = b.op("Mul", context, nonempty)
        context = b.reshape(b.transpose(context, 0, 1, 3, 2, 4, 5), 0, spec.q_heads, -1, spec.value_head_dim)
        return b.op("Slice", context, b.ints(0), length, b.ints(2))

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        assert isinstance(spec.pattern, SlidingWindow)
        blocks = _Blocks.of(spec.pattern)
        rows = -(-queries // blocks.size) * blocks.size
        copies = blocks.met * rows * spec.kv_heads * (spec.head_dim + spec.value_head_dim)
        return batch * (spec.q_heads * rows * blocks.width + copies)


def _queries(b: Builder, spec: AttentionSpec, blocks: _Blocks, q: ir.Value, missing: ir.Value) -> ir.Value:
    """(B, H, S, D) -> (B, K, n, G * block, D)."""
    padded = b.op("Pad", q, b.op("Concat", b.ints(0, 0, 0, 0, 0, 0), missing, b.ints(0), axis=0))
    split = b.reshape(padded, 0, spec.kv_heads, spec.group, -1, blocks.size, spec.head_dim)
    return b.reshape(b.transpose(split, 0, 1, 3, 2, 4, 5), 0, 0, 0, spec.group * blocks.size, spec.head_dim)


def _keys(b: Builder, blocks: _Blocks, value: ir.Value, missing: ir.Value) -> ir.Value:
    """(B, K, T, D) -> (B, K, n, width, D): for each query block the keys it meets, zeros beyond either end."""
    head = b.ints(0, 0, blocks.before * blocks.size, 0, 0, 0)
    padded = b.op("Pad", value, b.op("Concat", head, _tail(b, blocks, missing), b.ints(0), axis=0))
    size = value.shape[3] if value.shape is not None else -1
    split = b.reshape(padded, 0, 0, -1, blocks.size, size if isinstance(size, int) else -1)
    return b.op("Concat", *_shifted(b, blocks, split, axis=2), axis=3)


def _tail(b: Builder, blocks: _Blocks, missing: ir.Value) -> ir.Value:
    return b.op("Add", missing, b.ints(blocks.after * blocks.size))


def _shifted(b: Builder, blocks: _Blocks, split: ir.Value, axis: int) -> list[ir.Value]:
    """Of n + before + after blocks, the n that start at 0, at 1, ..."""
    last = blocks.met - 1
    ends = [j - last if j < last else sys.maxsize for j in range(blocks.met)]
    return [b.op("Slice", split, b.ints(j), b.ints(end), b.ints(axis)) for j, end in enumerate(ends)]


def _visibility(
    b: Builder, window: SlidingWindow, blocks: _Blocks, length: ir.Value, missing: ir.Value, mask: ir.Value | None
) -> tuple[ir.Value, ir.Value | None]:
    """0 / -inf of (B or 1, 1, n, 1, block, width), and 1 / 0 of (B, 1, n, 1, block, 1) where a query may see nothing."""
    rows = _constant(b, np.arange(blocks.size)[:, None])
    columns = _constant(b, np.arange(-blocks.before * blocks.size, (blocks.after + 1) * blocks.size))
    distance = b.op("Sub", columns, rows)  # the same in every block
    assert window.left is not None and window.right is not None  # noqa: PT018 - `accepts` has seen to it
    near = b.op(
        "And",
        b.op("GreaterOrEqual", distance, b.index(-window.left)),
        b.op("LessOrEqual", distance, b.index(window.right)),
    )
    if mask is not None:
        return _with_mask(b, blocks, near, missing, mask)
    padded = b.op("Squeeze", b.op("Add", length, missing))
    starts = b.op("Range", b.index(0), padded, b.index(blocks.size))
    starts = b.op("Unsqueeze", starts, b.ints(1, 2))
    keys = b.op("Add", starts, columns)
    inside = b.op("And", b.op("GreaterOrEqual", keys, b.index(0)), b.op("Less", keys, length))
    # rows that only fill the last block see everything: an empty softmax would give NaN there
    filler = b.op("GreaterOrEqual", b.op("Add", starts, rows), length)
    shown = b.op("Or", b.op("And", near, inside), filler)
    return b.op("Unsqueeze", b.op("Where", shown, b.number(0), b.number(-np.inf)), b.ints(0, 1, 3)), None


def _with_mask(b: Builder, blocks: _Blocks, near: ir.Value, missing: ir.Value, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The padding mask (B, T) blocked as the keys are; what lies beyond either end counts as padding."""
    head = b.ints(0, blocks.before * blocks.size, 0)
    padded = b.op("Pad", b.op("Cast", mask, to=b.dtype), b.op("Concat", head, _tail(b, blocks, missing), axis=0))
    split = b.reshape(padded, 0, -1, blocks.size)
    real = b.op("Concat", *_shifted(b, blocks, split, axis=1), axis=2)
    shown = b.op("And", near, b.op("Unsqueeze", b.op("Greater", real, b.number(0)), b.ints(2)))
    nonempty = b.op("ReduceMax", b.op("Cast", shown, to=b.dtype), b.ints(-1), keepdims=1)
    additive = b.op("Where", b.op("Or", shown, b.op("Equal", nonempty, b.number(0))), b.number(0), b.number(-np.inf))
    return b.op("Unsqueeze", additive, b.ints(1, 3)), b.op("Unsqueeze", nonempty, b.ints(1, 3))


def _constant(b: Builder, values: NDArray[np.int64]) -> ir.Value:
    return b.op("Constant", value=ir.tensor(values))
