"""Causal attention alone: ours in slices against every bare form of each runtime, in the same rounds. Those in which the cores shared
a cache and those in which they did not have a table each.

python benchmarks/causal.py --length 1024
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from cores import Cores, by_distance

from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import Causal, SoftmaxAttention

BARE = ("attention-23", "attention-24", "contrib-mha", "contrib-gqa", "decomposed")
"""What an exporter can write without a form of ours: the operators, and standard operators with repeated heads."""
OURS = ("sliced-23", "sliced", "blockwise", "grouped")


def main() -> None:
    """Parse, prove, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=9, help="query heads (default 9)")
    parser.add_argument("--kv-heads", type=int, default=3, help="key and value heads (default 3)")
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime and openvino")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    core = Core(SoftmaxAttention(arguments.heads, arguments.kv_heads, 64, pattern=Causal()), square=True)
    rng = np.random.default_rng(0)
    heads = {"q": arguments.heads, "k": arguments.kv_heads, "v": arguments.kv_heads}
    feeds = {
        name: rng.standard_normal((arguments.batch, count, arguments.length, 64), dtype=np.float32)
        for name, count in heads.items()
    }
    for name in arguments.runtime or ("onnxruntime", "openvino"):
        print(f"{name}, batch {arguments.batch}, {core.spec.summary()}, length {arguments.length}, {arguments.threads} threads")
        measure(name, core, feeds, arguments.repeats, arguments.threads)


def measure(name: str, core: Core, feeds: dict[str, np.ndarray], repeats: int, threads: int) -> None:
    """Time every form that accepts `core` and is proven, and print its ratio to the first, `sliced-23`."""
    runtime = registry.get(name)
    with tempfile.TemporaryDirectory() as folder, Cores() as cores:
        prover = Prover(Path(folder))
        forms = [form for form in (*OURS, *BARE) if get(form).accepts(core) is None]
        forms = [form for form in forms if prover.prove(get(form), core, runtime, "cpu").passed]
        options = LoadOptions(threads=threads, spin=False)
        sessions = [runtime.load(prover.model(get(form), core), options) for form in forms]
        runs = [partial(session.run, feeds) for session in sessions]
        timings = dict(zip(forms, interleave(runs, repeats, warmup=2, between=cores.look), strict=True))
    for title, rounds in by_distance({name: cores.rounds()}).items():
        print(f" {title}, {len(rounds[name])} rounds")
        show({form: [seconds[i] for i in rounds[name]] for form, seconds in timings.items()})


def show(timings: dict[str, list[float]]) -> None:
    """A line for each form."""
    first = next(iter(timings))
    for form, seconds in timings.items():
        ratio, kind = compare_timings(seconds, timings[first]), "bare" if form in BARE else "ours"
        print(
            f"  {form:14} {kind} {summarize(seconds).median_ms:9.2f} ms  "
            f"{ratio.value:5.2f}x of {first} [{ratio.low:.2f}, {ratio.high:.2f}]"
        )


if __name__ == "__main__":
    main()
