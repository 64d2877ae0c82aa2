"""Forms with an explicit mask that hides nothing, for a runtime whose unmasked kernels are wrong.

OpenVINO 2026.4 compiles unmasked attention into a kernel that, once it ran with a single key, gives wrong numbers without
an error for longer keys. Its masked kernel is right.
"""

from __future__ import annotations

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.lowerings.grouped import Grouped
from edgeattn.exporters.lowerings.visibility import Visibility
from edgeattn.spec import Full


def _refusal(core: Core) -> str | None:
    masked = core.spec.mask != "none" or core.spec.bias or not isinstance(core.spec.pattern, Full)
    return "it has a mask already, which the plain form adds" if masked else None


def _zeros(b: Builder, x: Operands) -> Visibility:
    """(1, 1, 1, T) zeros."""
    return Visibility(b.op("Expand", b.number(0), b.op("Concat", b.ints(1, 1, 1), b.size(x.k, 2), axis=0)), None)


class DecomposedOpen(Decomposed):
    """The decomposed form with a mask of zeros."""

    name = "decomposed-open"
    summary = "decomposed, with an explicit mask of zeros where unmasked kernels are wrong"
    takes = "attention without mask, bias or pattern"

    def accepts(self, core: Core) -> str | None:
        return super().accepts(core) or _refusal(core)

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return _zeros(b, x)


class GroupedOpen(Grouped):
    """The grouped form with a mask of zeros."""

    name = "grouped-open"
    summary = "grouped, with an explicit mask of zeros where unmasked kernels are wrong"
    takes = "grouped and multi-query attention without mask, bias or pattern"

    def accepts(self, core: Core) -> str | None:
        return super().accepts(core) or _refusal(core)

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return _zeros(b, x)
