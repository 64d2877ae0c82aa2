"""What `import edgeattn` adds to numpy, and what `edgeattn.load` adds to a bare ONNX Runtime session of the same file.

    python benchmarks/startup.py --bundle out/minilm

Every figure comes from fresh processes, the candidates in turn, the file cache warm. A bundle's weights are hashed when
they are loaded for the first time, which is a row of its own, and again only after the file was touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeattn import machine
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import open_bundle
from edgeattn.loading import pick_flavours
from edgeattn.runtimes import registry

IMPORTS = {
    "import numpy": "import numpy",
    "import edgeattn": "import numpy, edgeattn",
    "import edgeattn.loading": "import numpy, edgeattn.loading",
}
LOADS = {
    "onnxruntime.InferenceSession": """
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
""",
    "edgeattn.load": "session = edgeattn.load(bundle, threads=threads)",
    "edgeattn.load, for the first time": """
os.environ["XDG_CACHE_HOME"] = nowhere
session = edgeattn.load(bundle, threads=threads)
""",
    "edgeattn.load, verifying hashes alone": "edgeattn.bundle.open_bundle(bundle)",
}


def seconds(body: str, setup: str = "") -> float:
    """Seconds that `body` takes in a new interpreter, `setup` and the interpreter's own start left out."""
    code = f"import time\n{setup}\nstart = time.perf_counter()\n{body}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed:\n{code}\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure(title: str, bodies: dict[str, str], repeats: int, setup: str = "") -> list[dict[str, Any]]:
    """Print and return medians, with ratios to the first candidate."""
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for turn in range(repeats + 1):
        for name, body in bodies.items():
            taken = seconds(body, setup)
            if turn:  # the first round fills the file cache
                times[name].append(taken)
    first = next(iter(bodies))
    base = summarize(times[first]).median_ms
    rows = []
    print(f"{title}, {repeats} fresh processes each")
    for name, taken_list in times.items():
        summary, ratio = summarize(taken_list), compare_timings(taken_list, times[first])
        rows.append({"candidate": name, **dataclasses.asdict(summary), "to_first": dataclasses.asdict(ratio)})
        more = (
            ""
            if name == first
            else f"   {summary.median_ms - base:+8.1f} ms   {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
        )
        print(f"  {name:40} {summary.median_ms:8.1f} ms{more}")
    print()
    return rows


def main() -> None:
    """Parse, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="what `edgeattn export minilm -o out/minilm` wrote; without it, imports alone")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every number to this file")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": machine.facts(), "packages": machine.package_versions()}
    report["imports"] = measure("imports", IMPORTS, arguments.repeats)
    if arguments.bundle:
        opened = open_bundle(arguments.bundle)
        runtime, device = registry.parse_target("onnxruntime:cpu")
        file = opened.file(pick_flavours(opened, runtime, device)[0].file)
        setup = "import numpy, os, onnxruntime, edgeattn, edgeattn.bundle, edgeattn.loading, edgeattn.runtimes.onnxruntime\n"
        setup += f"bundle, file, threads, nowhere = {arguments.bundle!r}, {str(file)!r}, {arguments.threads}, os.devnull"
        report["loads"] = measure(f"loading {file.name}", LOADS, arguments.repeats, setup)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
