"""Sliding-window attention alone: our form in blocks against each runtime's own forms, in the same rounds.

python benchmarks/window.py --length 4096
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import SlidingWindow, SoftmaxAttention

PEERS = {
    "onnxruntime": ("contrib-gqa", "attention-23", "decomposed"),
    "openvino": ("attention-23", "contrib-mha", "decomposed"),
}
"""The runtime's own operators first; all but ours hold or walk the whole square."""


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256, help="keys a causal window holds (default 256)")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    spec = SoftmaxAttention(arguments.heads, arguments.heads, 64, pattern=SlidingWindow(arguments.window - 1, 0))
    core = Core(spec, square=True)
    rows = np.random.default_rng(0).standard_normal((3, 1, arguments.heads, arguments.length, 64), dtype=np.float32)
    feeds = dict(zip("qkv", rows, strict=True))
    for name, peers in PEERS.items():
        runtime = registry.get(name)
        with tempfile.TemporaryDirectory() as folder:
            prover = Prover(Path(folder))
            forms = [form for form in ("blocked", *peers) if prover.prove(get(form), core, runtime, "cpu").passed]
            sessions = [runtime.load(prover.model(get(form), core), LoadOptions(spin=False)) for form in forms]
            timings = interleave([lambda s=s: s.run(feeds) for s in sessions], arguments.repeats, warmup=1)  # type: ignore[misc]
        print(f"{name}, {arguments.heads} heads x 64, length {arguments.length}, causal window {arguments.window}")
        for form, seconds in zip(forms, timings, strict=True):
            ratio = compare_timings(seconds, timings[0])
            print(
                f"  {form:14} {summarize(seconds).median_ms:9.1f} ms  {ratio.value:5.1f}x of blocked [{ratio.low:.1f}, {ratio.high:.1f}]"
            )


if __name__ == "__main__":
    main()
