"""Memory goes back to the system when it is freed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgeattn.runtimes.heap import _trim, pages

HOLES = """
import numpy as np
from edgeattn.benchmarking.fresh import resident_mb
from edgeattn.runtimes.heap import give_back

held = [np.ones(8000) for _ in range(1000)]  # 64 kB each, of the heap
del held[::2]
before = resident_mb()
give_back()
print(before - resident_mb(), all((array == 1).all() for array in held))
"""

PAGES = """
import os
import sys
import numpy as np
from edgeattn.benchmarking.fresh import resident_mb
from edgeattn.runtimes.heap import pages

start = resident_mb()
array = pages((3, 1000, 4000), np.float32)
untouched = resident_mb() - start
array += 1
held = resident_mb() - start
if os.fork() == 0:
    array[0, 0, 0] = 7
    os._exit(0)
os.wait()
kept = (array == 1).all()
del array
print(untouched, held, resident_mb() - start, kept)
"""


def _alone(script: str) -> list[str]:
    """What it prints in a process of its own, since what the heap of this one holds is no business of these tests."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_pages_come_when_written_and_go_with_the_array() -> None:
    untouched, held, freed, kept = _alone(PAGES)
    assert float(untouched) < 2
    assert float(held) > 45
    assert float(freed) < 2
    assert kept == "True"  # a forked process has its own


def test_pages_of_nothing() -> None:
    assert pages((2, 0, 3), np.float16).shape == (2, 0, 3)


@pytest.mark.skipif(_trim() is None, reason="the C library is not glibc, which alone can be asked to give memory back")
def test_holes_of_the_heap_go_back() -> None:
    given, kept = _alone(HOLES)
    assert float(given) > 20
    assert kept == "True"
