"""edgeattn: from a PyTorch model with attention to a file an edge device runs fast, proven to be the same model.

On the device, with numpy and one runtime: `edgeattn.load("out/").run(feeds)`. On the author's machine, with PyTorch:
`edgeattn.export(module, inputs)`. Every name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeattn.benchmarking.benchmark import BenchReport as BenchReport
    from edgeattn.benchmarking.benchmark import bench as bench
    from edgeattn.bundle import Bundle as Bundle
    from edgeattn.bundle import open_bundle as open_bundle
    from edgeattn.checking import CheckReport as CheckReport
    from edgeattn.checking import check as check
    from edgeattn.comparing import compare as compare
    from edgeattn.errors import EdgeAttnError as EdgeAttnError
    from edgeattn.exporters.estimate import estimate as estimate
    from edgeattn.exporters.export import export as export
    from edgeattn.loading import load as load
    from edgeattn.runtimes.base import Session as Session
    from edgeattn.spec import AttentionSpec as AttentionSpec
    from edgeattn.spec import Causal as Causal
    from edgeattn.spec import Full as Full
    from edgeattn.spec import SlidingWindow as SlidingWindow
    from edgeattn.spec import SoftmaxAttention as SoftmaxAttention

    __version__: str

_HOMES = {
    "BenchReport": "edgeattn.benchmarking.benchmark",
    "bench": "edgeattn.benchmarking.benchmark",
    "Bundle": "edgeattn.bundle",
    "open_bundle": "edgeattn.bundle",
    "CheckReport": "edgeattn.checking",
    "check": "edgeattn.checking",
    "compare": "edgeattn.comparing",
    "EdgeAttnError": "edgeattn.errors",
    "estimate": "edgeattn.exporters.estimate",
    "export": "edgeattn.exporters.export",
    "load": "edgeattn.loading",
    "Session": "edgeattn.runtimes.base",
    "AttentionSpec": "edgeattn.spec",
    "Causal": "edgeattn.spec",
    "Full": "edgeattn.spec",
    "SlidingWindow": "edgeattn.spec",
    "SoftmaxAttention": "edgeattn.spec",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 - names from the one table above


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edgeattn")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeattn' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
