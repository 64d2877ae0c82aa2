"""Does memory grow with what is generated, by more than the cache? Resident memory of a fresh process on each runtime.

python benchmarks/memory_curve.py out/smollm2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from alone import alone
from decoders import Ours

from edgeattn import machine
from edgeattn.benchmarking.fresh import mapped_mb, resident_mb
from edgeattn.runtimes import registry

PROMPT = 16
Point = dict[str, float]


def curve(arguments: argparse.Namespace) -> list[Point]:
    """Resident MB of this process, which must be fresh, and the cache's own, each `--every` tokens; the first is the start, after
    one token, for which a runtime may lay the weights out anew."""
    decoder = Ours(arguments.bundle, arguments.alone, arguments.threads)
    position = decoder.cache_bytes()
    decoder.reset(PROMPT + arguments.tokens)
    token = int(decoder.read(np.arange(1, PROMPT)).argmax())
    token = int(decoder.step(token).argmax())
    points = [_point(0, position * PROMPT)]
    for made in range(1, arguments.tokens + 1):
        token = int(decoder.step(token).argmax())
        if made % arguments.every == 0:
            points.append(_point(made, position * (PROMPT + made)))
    return points


def _point(made: int, cache: int) -> Point:
    resident, files = resident_mb(), mapped_mb()
    if resident is None or files is None:
        raise SystemExit("resident memory is read from /proc/self/status, which this system does not have; run it on Linux")
    return {"tokens": made, "resident_mb": resident, "files_mb": files, "cache_mb": cache / 1e6}


def residuals(points: list[Point]) -> list[float]:
    """MB that have come since the start and are neither the cache's nor pages of files, for each point."""
    rest = [point["resident_mb"] - point["files_mb"] - point["cache_mb"] for point in points]
    return [found - rest[0] for found in rest]


def slope(points: list[Point]) -> float:
    """Bytes a token that the residual grows by, over the second half of the points: the first one holds what is warmed up."""
    half = slice(len(points) // 2, None)
    tokens = [point["tokens"] for point in points[half]]
    return float(np.polyfit(tokens, residuals(points)[half], 1)[0] * 1e6)


def show(name: str, points: list[Point]) -> None:
    """A line for each point, and the slope."""
    print(f"{name}\n  tokens  resident MB  of files MB  cache MB  rest since the start, MB")
    for point, rest in zip(points, residuals(points), strict=True):
        held = f"{point['resident_mb']:11.1f}  {point['files_mb']:11.1f}  {point['cache_mb']:8.1f}"
        print(f"  {point['tokens']:6.0f}  {held}  {rest:24.1f}")
    position = (points[-1]["cache_mb"] - points[0]["cache_mb"]) * 1e6 / points[-1]["tokens"]
    grows = slope(points)
    print(
        f"  the rest grows by {grows:.0f} B a token in the second half, {grows / position:.2f} of the cache's {position:.0f} B\n"
    )


def main() -> None:
    """Print the curve of every runtime that is here, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime and openvino")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--every", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tokens < 3 * arguments.every:
        parser.error(f"a slope needs 3 points: --tokens of 3 x {arguments.every} or more, got {arguments.tokens}")
    if arguments.alone:
        print(json.dumps(curve(arguments)))
        return
    found = []
    for name in arguments.runtime or ("onnxruntime", "openvino"):
        if not registry.get(name).check().ok:
            print(f"{name} is not installed\n")
            continue
        points = alone(name)
        show(name, points)
        found.append({"runtime": name, "points": points, "slope_bytes_per_token": slope(points)})
    if arguments.json:
        report = {"machine": machine.facts(), "packages": machine.package_versions(), "rows": found}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
