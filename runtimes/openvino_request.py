"""One run of an OpenVINO infer request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.runtimes.base import Array


def run(request: Any, feeds: Mapping[Any, Array]) -> None:
    """Run on feeds by name or by number. Raises what OpenVINO raises.

    All work is done by the runtime's own threads. `infer` takes the caller's for one of them, and a decoder's step is then a little
    slower.
    """
    request.start_async(feeds, share_inputs=True)
    request.wait()
