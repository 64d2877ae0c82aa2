"""Memory that goes back to the system when it is freed, where the C library would keep it.

glibc takes an area from the system for itself once it has freed one of its size, and keeps the holes that growing buffers
leave in it.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def pages(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros on pages of the system, which has them back with the array and gives each when it is first written."""
    size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
    if sys.platform == "win32":
        found = mmap.mmap(-1, size)
    else:
        found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # else a forked process would write into it
    return np.frombuffer(found, dtype=dtype, count=math.prod(shape)).reshape(shape)


def give_back() -> None:
    """Return what was freed to the system, in a few milliseconds (`malloc_trim(3)`). Does nothing where the C library is not glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
