"""The lowerings by name, in the order in which they are listed."""

from __future__ import annotations

from edgeattn.errors import unknown
from edgeattn.exporters.lowerings.base import Lowering
from edgeattn.exporters.lowerings.blocked import BlockedWindow
from edgeattn.exporters.lowerings.blocked_global import BlockedGlobal
from edgeattn.exporters.lowerings.blockwise import Blockwise
from edgeattn.exporters.lowerings.cached import CachedGroupQueryAttention
from edgeattn.exporters.lowerings.contrib import GroupQueryAttention, MultiHeadAttention
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.lowerings.fixed_blocks import FixedBlocks
from edgeattn.exporters.lowerings.gather_blocks import GatherBlocks
from edgeattn.exporters.lowerings.grouped import Grouped
from edgeattn.exporters.lowerings.onnx_attention import OnnxAttention23, OnnxAttention24
from edgeattn.exporters.lowerings.open_mask import DecomposedOpen, GroupedOpen
from edgeattn.exporters.lowerings.sliced import Sliced, SlicedAttention

_ALL: tuple[Lowering, ...] = (
    Decomposed(),
    DecomposedOpen(),
    Grouped(),
    GroupedOpen(),
    BlockedWindow(),
    BlockedGlobal(),
    GatherBlocks(),
    FixedBlocks(),
    Sliced(),
    SlicedAttention(),
    Blockwise(),
    OnnxAttention23(),
    OnnxAttention24(),
    MultiHeadAttention(),
    GroupQueryAttention(),
    CachedGroupQueryAttention(),
)
LOWERINGS: dict[str, Lowering] = {lowering.name: lowering for lowering in _ALL}
WHOLE: dict[str, Lowering] = {name: lowering for name, lowering in LOWERINGS.items() if not lowering.updates_cache}
"""Those that take all keys and values at once: all that an attention without a cache can have."""


def get(name: str) -> Lowering:
    """The lowering called `name`. Raises UsageError with the nearest names."""
    if name not in LOWERINGS:
        raise unknown("lowering", name, LOWERINGS)
    return LOWERINGS[name]
