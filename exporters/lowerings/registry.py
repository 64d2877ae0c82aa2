"""The lowerings by name, in the order in which they are listed."""

from __future__ import annotations

from edgeattn.errors import unknown
from edgeattn.exporters.lowerings.base import Lowering
from edgeattn.exporters.lowerings.blocked import BlockedWindow
from edgeattn.exporters.lowerings.contrib import GroupQueryAttention, MultiHeadAttention
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.lowerings.grouped import Grouped
from edgeattn.exporters.lowerings.onnx_attention import OnnxAttention23, OnnxAttention24
from edgeattn.exporters.lowerings.open_mask import DecomposedOpen, GroupedOpen

_ALL: tuple[Lowering, ...] = (
    Decomposed(),
    DecomposedOpen(),
    Grouped(),
    GroupedOpen(),
    BlockedWindow(),
    OnnxAttention23(),
    OnnxAttention24(),
    MultiHeadAttention(),
    GroupQueryAttention(),
)
LOWERINGS: dict[str, Lowering] = {lowering.name: lowering for lowering in _ALL}


def get(name: str) -> Lowering:
    """The lowering called `name`. Raises UsageError with the nearest names."""
    if name not in LOWERINGS:
        raise unknown("lowering", name, LOWERINGS)
    return LOWERINGS[name]
