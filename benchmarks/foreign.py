"""An ONNX file that another exporter wrote, as it is, against what `edgeattn export FILE.onnx` makes of it, in the same rounds.

python benchmarks/foreign.py out/peers/dynamo18.onnx out/peers/dynamo23.onnx
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import edgeattn
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Session

VOCABULARY = 30_000


def main() -> None:
    """Parse, export each file, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime:cpu and openvino:cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    targets = arguments.runtime or ["onnxruntime:cpu", "openvino:cpu"]
    for file in arguments.files:
        with tempfile.TemporaryDirectory() as folder:
            report = edgeattn.export(str(file), output=Path(folder) / "out", runtimes=targets)
            print(f"{file.name}: {len(report.sites)} sites, {len(report.unraised)} missed")
            for target in targets:
                measure(file, Path(folder) / "out" / f"{target.replace(':', '-')}.onnx", target, arguments)


def measure(original: Path, ours: Path, target: str, arguments: argparse.Namespace) -> None:
    """Print both medians and the ratio of ours to the original."""
    runtime, device = registry.parse_target(target)
    options = LoadOptions(device=device, spin=False)
    with runtime.load(original, options) as before, runtime.load(ours, options) as after:
        feeds = _feeds(before, arguments.batch, arguments.length)
        rows = interleave([lambda: before.run(feeds), lambda: after.run(feeds)], arguments.repeats)
    ratio = compare_timings(rows[1], rows[0])
    medians = ", ".join(
        f"{label} {summarize(row).median_ms:.2f} ms" for label, row in zip(("as it is", "ours"), rows, strict=True)
    )
    print(f"  {target:16} {medians}, ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")


def _feeds(session: Session, batch: int, length: int) -> dict[str, np.ndarray]:
    """Token ids; every other input (masks) is ones."""
    rng = np.random.default_rng(0)
    return {
        info.name: rng.integers(VOCABULARY, size=(batch, length))
        if info.name == "input_ids"
        else np.zeros((batch, length), dtype=np.int64)
        if info.name == "token_type_ids"
        else np.ones((batch, length), dtype=info.dtype)
        for info in session.inputs
    }


if __name__ == "__main__":
    main()
