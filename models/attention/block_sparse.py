"""Block-sparse attention: blocks of positions see each other by a static layout, given as a table of 0 and 1.

Child et al., "Generating Long Sequences with Sparse Transformers", 2019 (https://arxiv.org/abs/1904.10509); Zaheer et al.,
"Big Bird", 2020 (https://arxiv.org/abs/2007.14062), for the layout of window, global and random blocks.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Sequence
from typing import Unpack

from edgeattn.errors import UsageError
from edgeattn.models.attention.options import SequenceOptions
from edgeattn.models.attention.self_attention import SelfAttention
from edgeattn.models.variant import variant
from edgeattn.spec import BlockSparse

Table = tuple[str, ...]


@variant("block_sparse", embed_dim=12, num_heads=2, block=3, layout=[["11000", "11100", "01110", "10111", "00011"]])
class BlockSparseAttention(SelfAttention):
    """x (B, S, embed_dim) -> (B, S, embed_dim); positions i and j meet when layout[head][i // block][j // block] is "1".

    `layout` is one table for all heads, or one for each. S must not exceed `block` times its rows. `causal` hides j > i.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        block: int,
        layout: Sequence[Sequence[str]],
        causal: bool = False,
        **options: Unpack[SequenceOptions],
    ) -> None:
        pattern = BlockSparse(block, layout, causal)  # type: ignore[arg-type] # it makes tuples of any sequences
        super().__init__(embed_dim, num_heads, pattern=pattern, **options)


def bigbird_layout(blocks: int, window: int = 3, global_: int = 1, random: int = 1, seed: int = 0) -> tuple[Table, ...]:
    """One table of `blocks` x `blocks` for all heads, as Big Bird (the internal construction) has it.

    Args:
        blocks: rows of the table.
        window: width of the band around the diagonal, its own block included; odd.
        global_: leading blocks that see all and are seen by all.
        random: further blocks that each row sees, drawn with `seed`; fewer where a row has fewer left.
        seed: equal seeds give equal tables.

    Raises:
        UsageError: a number that no layout can have.
    """
    for name, value, least in (("blocks", blocks, 1), ("window", window, 1), ("global_", global_, 0), ("random", random, 0)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    if window % 2 == 0:
        raise UsageError(f"window must be odd, the same number of blocks on both sides of a block's own, got {window}")
    draw = randomness.Random(seed)
    table = []
    for row in range(blocks):
        seen = {c for c in range(blocks) if abs(c - row) <= window // 2 or c < global_ or row < global_}
        rest = sorted(set(range(blocks)) - seen)
        seen |= set(draw.sample(rest, min(random, len(rest))))
        table.append("".join("1" if c in seen else "0" for c in range(blocks)))
    return (tuple(table),)
