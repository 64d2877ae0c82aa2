"""Every lowering that a model's sites allow, as a whole model, in the same rounds: the numbers behind the defaults.

python benchmarks/lowerings.py --source minilm -r onnxruntime:cpu
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import torch

from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import weights_name
from edgeattn.exporters.capture import capture, named_outputs
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import LOWERINGS
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Session

CASES = ((1, 128), (8, 128), (1, 512))
"""(batch, length of every other dimension); rows after the first are padded."""


def write_forms(source: Source, target: str, folder: Path) -> tuple[dict[str, Path], str]:
    """One file per lowering that every site accepts and that is proven on `target`, and the name of the default."""
    runtime, device = registry.parse_target(target)
    outputs = list(named_outputs(source.module(**source.inputs)))
    canonical = capture(source, outputs)
    ir.external_data.unload_from_model(canonical, folder, weights_name("fp32"), size_threshold_bytes=1024)
    limits = {d.name: d.limit for d in source.dimensions.values() if d.limit}
    sites, prover = find_sites(canonical), Prover(folder / "probes")
    files = {}
    for name, lowering in LOWERINGS.items():
        cores = [site.core(limits) for site in sites]
        if all(lowering.accepts(core) is None and prover.prove(lowering, core, runtime, device).passed for core in cores):
            files[name] = folder / f"{name}.onnx"
            ir.save(lower(canonical, {site.name: lowering for site in sites}, limits), files[name])
    return files, choose(sites[0].core(limits), runtime, device, prover).lowering.name


def timed(session: Session, source: Source, batch: int, length: int) -> Callable[[], object]:
    """One run at the given sizes."""
    sizes = {name: batch if d.batch else min(length, d.limit or length) for name, d in source.dimensions.items()}
    feeds = {name: t.numpy() for name, t in source.sample(sizes, torch.Generator().manual_seed(0)).items()}
    return lambda: session.run(feeds)


def main() -> None:
    """Parse, write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="minilm")
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime:cpu and openvino:cpu")
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    source = resolve(arguments.source)
    for target in arguments.runtime or ("onnxruntime:cpu", "openvino:cpu"):
        with tempfile.TemporaryDirectory() as folder:
            files, default = write_forms(source, target, Path(folder))
            runtime, device = registry.parse_target(target)
            options = LoadOptions(device=device, spin=False)
            sessions = {name: runtime.load(path, options) for name, path in files.items()}
            for batch, length in CASES:
                runs = [timed(session, source, batch, length) for session in sessions.values()]
                timings = dict(zip(sessions, interleave(runs, arguments.repeats), strict=True))
                print(f"{target}, batch {batch}, length {length} (ratio to the default, {default})")
                for name, seconds in timings.items():
                    ratio = compare_timings(seconds, timings[default])
                    print(
                        f"  {name:16} {summarize(seconds).median_ms:9.2f} ms  {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
                    )
            for session in sessions.values():
                session.close()


if __name__ == "__main__":
    main()
