"""The fixed pattern: each block of queries against its own keys and the summary columns of the blocks before.

With blocks of about the square root of S this is O(S sqrt(S)) (Sparse Transformer, Child et al. 2019, section 4.3).
The strided pattern of the same paper has no such form: its queries share no keys but within the window, so that the two
halves of a row would have to be normalized apart and joined again.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.blocked import BLOCK, refusal
from edgeattn.exporters.lowerings.tiles import Tiles, attend, blocks, constant, fewest, held, near, steps
from edgeattn.spec import AttentionSpec, Fixed


class FixedBlocks(Lowering):
    """n = ceil(S / size) blocks; scores are (B, K, n, G * size, size + columns * ceil(S / block))."""

    name = "fixed-blocks"
    summary = "own block and gathered summary columns: O(S (block + columns S / block))"
    takes = "the fixed sparse pattern, equal lengths, no dense mask, no bias"
    time = "S (block + columns S / block) D"
    memory = "S (block + columns S / block)"
    sized = True

    def accepts(self, core: Core) -> str | None:
        return refusal(core) if isinstance(core.spec.pattern, Fixed) else "it is for the fixed sparse pattern"

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        pattern = core.spec.pattern
        assert isinstance(pattern, Fixed)
        size = _size(pattern)
        length = b.size(x.q, 2)
        first = b.op("Unsqueeze", b.op("Mul", steps(b, blocks(b, length, size)), b.ints(size)), b.ints(1))
        rows = b.op("Add", first, constant(b, np.arange(size)))
        starts = b.op("Mul", steps(b, blocks(b, length, pattern.block)), b.ints(pattern.block))
        last = constant(b, np.arange(pattern.block - pattern.columns, pattern.block))
        summaries = b.reshape(b.op("Add", b.op("Unsqueeze", starts, b.ints(1)), last), 1, -1)
        before = b.op("Where", b.op("Less", summaries, first), summaries, b.index(-1))
        columns = b.op("Unsqueeze", b.op("Concat", rows, before, axis=1), b.ints(0))
        return attend(b, core, x, Tiles(size, rows, columns, near(b, pattern)), steps(b, length))

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        pattern = spec.pattern
        assert isinstance(pattern, Fixed)
        size = _size(pattern)
        width = size + -(-queries // pattern.block) * pattern.columns
        return held(spec, batch, -(-queries // size) * size, size, width, fewest(keys))


def _size(pattern: Fixed) -> int:
    """Whole blocks of the pattern, as many as a product of matrices is worth."""
    return pattern.block * -(-BLOCK // pattern.block)
