"""Which form to try first, per runtime: the measured order. The first that accepts the site and whose probe passes wins.

Each row says why. Where it says measured: `benchmarks/lowerings.py`, two x86-64 cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeattn.exporters.lowerings.base import Core
from edgeattn.spec import SlidingWindow

LONG = 2048
"""Keys beyond which holding (B, H, S, T) costs more memory than a faster kernel is worth."""
SHORT = 512
"""Keys up to which a dense window costs no more than one in blocks."""


@dataclass(frozen=True, slots=True)
class Default:
    """`order` applies on `runtime` where `when` holds; rows are read from the top."""

    runtime: str
    when: Callable[[Core], bool]
    order: tuple[str, ...]
    why: str


def _grouped(core: Core) -> bool:
    return core.spec.group > 1


def _long(core: Core) -> bool:
    return core.max_keys is None or core.max_keys > LONG


def _long_window(core: Core) -> bool:
    return isinstance(core.spec.pattern, SlidingWindow) and (core.max_keys is None or core.max_keys > SHORT)


def _always(core: Core) -> bool:
    return True


DEFAULTS = (
    Default("onnxruntime", _long_window, ("blocked", "grouped", "attention-23"), "time and memory linear in the length"),
    Default("onnxruntime", _grouped, ("grouped",), "no repeated keys and values"),
    Default("onnxruntime", _long, ("contrib-mha", "attention-23"), "does not hold the scores of a long sequence"),
    Default("onnxruntime", _always, ("attention-23",), "fastest measured up to 2048 keys"),
    Default("openvino", _long_window, ("blocked", "grouped", "contrib-mha"), "time and memory linear in the length"),
    Default("openvino", _grouped, ("grouped", "grouped-open"), "no repeated keys and values"),
    Default("openvino", _always, ("contrib-mha", "attention-23"), "imported as a fused attention: fastest measured"),
)
FALL_BACK = ("decomposed", "decomposed-open")


def candidates(runtime: str, core: Core) -> list[tuple[str, str]]:
    """(lowering, why) in the order to try; always ends with the decomposed forms."""
    rows = [row for row in DEFAULTS if row.runtime == runtime and row.when(core)]
    ordered = [(name, row.why) for row in rows[:1] for name in row.order]
    return [*ordered, *((name, "standard operators, which every runtime has") for name in FALL_BACK)]
