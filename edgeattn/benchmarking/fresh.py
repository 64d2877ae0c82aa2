"""Load time and peak memory, measured in a process of their own: this one has loaded too much to tell.

Run as `python -m edgeattn.benchmarking.fresh BUNDLE RUNTIME DEVICE FLAVOUR THREADS SIZES LIBRARIES`; prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeattn.bundle import Bundle, open_bundle
from edgeattn.errors import RuntimeRunError
from edgeattn.runtimes.base import LoadOptions

_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Fresh:
    """`load_s`: opening (hashes included) and loading, imports excluded. `first_run_ms`: the first run after it.

    `peak_rss_mb` is the process's peak after one run, `base_rss_mb` that of the interpreter with numpy; both in MB of
    10**6 bytes, None where the system does not tell.
    """

    load_s: float
    first_run_ms: float
    peak_rss_mb: float | None
    base_rss_mb: float | None


def measure_fresh(
    bundle: Bundle, runtime: str, options: LoadOptions, flavour: tuple[str, str], sizes: Mapping[str, int]
) -> Fresh:
    """Measure in a fresh interpreter; `flavour` is its target and precision. Raises RuntimeRunError when that process fails."""
    lists = [json.dumps(dict(sizes)), json.dumps(options.custom_ops)]
    arguments = [str(bundle.path), runtime, options.device, *flavour, str(options.threads or 0), *lists]
    command = [sys.executable, "-m", "edgeattn.benchmarking.fresh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        target = f"{runtime}:{options.device}"
        raise RuntimeRunError(f"measuring {target} in a fresh process failed (exit code {done.returncode}): {last}")
    return Fresh(**json.loads(lines[-1]))


def _measure(path: str, runtime: str, options: LoadOptions, flavour: tuple[str, str], sizes: dict[str, int]) -> Fresh:
    from edgeattn.benchmarking.feeds import make_feeds
    from edgeattn.loading import load
    from edgeattn.runtimes import registry

    feeds = make_feeds(open_bundle(path), sizes)
    base = peak_mb()
    registry.get(runtime).check()
    start = time.perf_counter()
    target, precision = flavour
    with load(
        path, runtime, options.device, options.threads, target, options.custom_ops, precision=precision or None
    ) as session:
        loaded = time.perf_counter()
        session.run(feeds)
        ran = time.perf_counter()
        return Fresh(loaded - start, (ran - loaded) * 1e3, peak_mb(), base)


def peak_mb() -> float | None:
    """Peak resident memory of this process alone. getrusage would count what its parent had before the fork."""
    return _status_mb("VmHWM")


def resident_mb() -> float | None:
    """Resident memory of this process now, in the same units."""
    return _status_mb("VmRSS")


def mapped_mb() -> float | None:
    """The part of `resident_mb` that is pages of files, such as rows of an embedding that were read; the system may drop them."""
    return _status_mb("RssFile")


def _status_mb(name: str) -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(f"{name}:")), None)
    return int(line.split()[1]) * 1024 / 1e6 if line else None


def _main(arguments: list[str]) -> None:
    path, runtime, device, target, precision, threads, sizes, libraries = arguments
    options = LoadOptions(device, int(threads) or None, custom_ops=tuple(json.loads(libraries)))
    fresh = _measure(path, runtime, options, (target, precision), json.loads(sizes))
    print(json.dumps({name: getattr(fresh, name) for name in Fresh.__slots__}))


if __name__ == "__main__":
    _main(sys.argv[1:])
