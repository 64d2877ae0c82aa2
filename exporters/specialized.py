"""Where in the user's code a dynamic size became a number, which torch.export knows but does not say."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

_TORCH = Path(torch.__file__).parent


def specialized_lines(error: BaseException) -> list[str]:
    """`file:line in function: code` for every size that was replaced by a number; empty where torch itself did it."""
    found: dict[str, None] = {}
    for shapes in _shape_environments(error):
        for symbol, value in shapes.replacements.items():
            place: Any = shapes.replacements_slocs.get(symbol)
            frame = getattr(place, "framework_loc", None)
            if value.is_number and isinstance(frame, FrameSummary) and not Path(frame.filename).is_relative_to(_TORCH):
                code = linecache.getline(frame.filename, frame.lineno or 0).strip()
                found[f"  {frame.filename}:{frame.lineno} in {frame.name}: {code}"] = None
    return list(found)


def _shape_environments(error: BaseException | None) -> Iterator[ShapeEnv]:
    """What torch's frames under the error, and under the errors it came from, know of sizes."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            yield from (value for value in list(trace.tb_frame.f_locals.values()) if isinstance(value, ShapeEnv))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
