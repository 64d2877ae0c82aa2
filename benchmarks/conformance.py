"""The standard's own test cases of attention, through our lowerings and on each runtime as they are shipped.

python benchmarks/conformance.py --json out/conformance.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import onnx

from edgeattn.exporters.conformance import Result, cases, collect, totals
from edgeattn.runtimes import registry


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--runtime", action="append", help="a runtime (default: onnxruntime and openvino)")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--json", type=Path, help="write every verdict to this file")
    arguments = parser.parse_args()
    runtimes = [registry.get(name) for name in arguments.runtime or ("onnxruntime", "openvino")]
    versions = {"onnx": onnx.__version__, **{runtime.name: runtime.check().version for runtime in runtimes}}
    names = [name for name in cases() if arguments.only in name]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in collect(names, runtimes, Path(folder)):
            results.append(result)
            _print_trouble(result)
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))
    _print_table(results)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [dataclasses.asdict(result) for result in results]
        arguments.json.write_text(json.dumps({"versions": versions, "results": rows}, indent=1))


def _print_trouble(result: Result) -> None:
    for way, verdict in (("ours", result.ours), ("bare", result.bare)):
        if verdict.status != "pass":
            print(f"{result.runtime:12} {result.case:70} {way} {verdict.status}: {verdict.reason:.160}")


def _print_table(results: list[Result]) -> None:
    print(f"{'runtime':12} {'operator':16} {'cases':>5}  {'ours: pass':>10} {'inexpr.':>7} {'other':>5}  ", end="")
    print(f"{'bare: pass':>10} {'error':>5} {'silently wrong':>14}")
    for row in totals(results):
        ours = (row.ours.get("pass", 0), row.ours.get("inexpressible", 0))
        bare = (row.bare.get(status, 0) for status in ("pass", "error", "wrong"))
        print(f"{row.runtime:12} {row.operator:16} {row.cases:5}  ", end="")
        print("{:10} {:7} {:5}  {:10} {:5} {:14}".format(*ours, row.cases - sum(ours), *bare))


if __name__ == "__main__":
    main()
