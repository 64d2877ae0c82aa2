"""Which form to try first, per runtime: the measured order. The first that accepts the site and whose probe passes wins.

Each row says why. Where it says measured: `lowerings.py`, `causal.py` or `window.py` of `benchmarks/`, two x86-64 cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.gather_blocks import share
from edgeattn.spec import BlockSparse, Causal, Dilated, Fixed, Full, GlobalLocal, SlidingWindow

LONG = 2048
"""Keys beyond which holding (B, H, S, T) costs more memory than a faster kernel is worth."""
SHORT = 512
"""Keys up to which a dense window costs no more than one in blocks."""
DENSE = {"onnxruntime": 0.6, "openvino": 1 / 3}
"""Share of a layout's blocks from which a dense form is taken: an estimate, from few layouts."""
FEW = 512
"""Keys up to which causal attention in slices gains nothing over one operator that skips hidden keys, and up to which
grouped heads in rows gain nothing on OpenVINO under a mask."""


@dataclass(frozen=True, slots=True)
class Default:
    """`order` applies on `runtime` where `when` holds; rows are read from the top."""

    runtime: str
    when: Callable[[Core], bool]
    order: tuple[str, ...]
    why: str


def _grouped(core: Core) -> bool:
    return core.spec.group > 1


def _open(core: Core) -> bool:
    return core.spec.mask == "none" and not core.spec.bias and isinstance(core.spec.pattern, Full)


def _long_open(core: Core) -> bool:
    return _open(core) and (core.max_keys is None or core.max_keys > LONG)


def _surely_long(core: Core) -> bool:
    return core.max_keys is not None and core.max_keys > LONG


def _long_window(core: Core) -> bool:
    windows = isinstance(core.spec.pattern, SlidingWindow | Dilated | GlobalLocal)
    return windows and (core.max_keys is None or core.max_keys > SHORT)


def _long_layout(runtime: str) -> Callable[[Core], bool]:
    def holds(core: Core) -> bool:
        pattern = core.spec.pattern
        sparse = isinstance(pattern, Fixed) or (isinstance(pattern, BlockSparse) and share(pattern) < DENSE[runtime])
        return sparse and (core.max_keys is None or core.max_keys > SHORT)

    return holds


def _causal(core: Core) -> bool:
    return isinstance(core.spec.pattern, Causal) and core.square


def _surely_long_causal(core: Core) -> bool:
    return _causal(core) and core.max_keys is not None and core.max_keys > FEW


def _masked_groups(core: Core) -> bool:
    return _grouped(core) and not _open(core) and (core.max_keys is None or core.max_keys >= FEW)


def _cached(core: Core) -> bool:
    return core.cached


def _always(core: Core) -> bool:
    return True


DEFAULTS = (
    Default(
        "onnxruntime",
        _cached,
        ("contrib-gqa-cache", "grouped", "attention-23"),
        "one operator, and a step writes what is new into the cache instead of copying it: fastest measured",
    ),
    Default(
        "onnxruntime",
        _long_window,
        ("blocked", "blocked-global", "grouped", "attention-23"),
        "time and memory linear in the length",
    ),
    Default(
        "onnxruntime",
        _long_layout("onnxruntime"),
        ("gather-blocks", "fixed-blocks", "grouped", "attention-23"),
        "hidden blocks cost nothing",
    ),
    Default(
        "onnxruntime",
        _surely_long_causal,
        ("sliced-23", "contrib-gqa", "grouped", "attention-23"),
        "skips hidden keys in products and softmax: fastest measured beyond 512 keys, 1/16 of the scores held",
    ),
    Default(
        "onnxruntime",
        _causal,
        ("contrib-gqa", "grouped", "attention-23"),
        "skips hidden keys in the softmax: fastest measured up to 512 keys",
    ),
    Default("onnxruntime", _grouped, ("grouped",), "no repeated keys and values"),
    Default("onnxruntime", _long_open, ("contrib-mha", "attention-23"), "does not hold the scores of a long sequence"),
    Default("onnxruntime", _surely_long, ("blockwise", "attention-23"), "holds 1/16 of the scores of a long sequence"),
    Default("onnxruntime", _always, ("attention-23",), "fastest measured up to 2048 keys"),
    Default(
        "openvino",
        _long_window,
        ("blocked", "blocked-global", "grouped", "contrib-mha"),
        "time and memory linear in the length",
    ),
    Default(
        "openvino",
        _long_layout("openvino"),
        ("gather-blocks", "fixed-blocks", "grouped", "contrib-mha"),
        "hidden blocks cost nothing",
    ),
    Default(
        "openvino", _masked_groups, ("decomposed", "grouped"), "fused as it is: fastest measured from 512 keys, under a mask"
    ),
    Default("openvino", _grouped, ("grouped", "grouped-open"), "no repeated keys and values"),
    Default("openvino", _always, ("contrib-mha", "attention-23"), "imported as a fused attention: fastest measured"),
)
FALL_BACK = ("decomposed", "decomposed-open")


def candidates(runtime: str, core: Core) -> list[tuple[str, str]]:
    """(lowering, why) in the order to try; always ends with the decomposed forms."""
    rows = [row for row in DEFAULTS if row.runtime == runtime and row.when(core)]
    ordered = [(name, row.why) for row in rows[:1] for name in row.order]
    return [*ordered, *((name, "standard operators, which every runtime has") for name in FALL_BACK)]
