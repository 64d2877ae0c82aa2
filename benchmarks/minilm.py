"""all-MiniLM-L6-v2 from our bundle against the forms that other exporters make of it, in the same rounds.

python benchmarks/minilm.py --bundle out/minilm
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peers
from peers import Feeds, Run

from edgeattn import machine
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import open_bundle
from edgeattn.loading import open_session, pick_flavours
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions

OURS = "edgeattn"
CASES = {"batch 1": (1, False), "batch 8": (8, False), "batch 8, half padded": (8, True)}
SEQUENCE = 128
WRONG = 1e-4
"""A candidate further from PyTorch than this is not another form of the model, and gets no latency."""


def make_feeds(batch: int, padded: bool) -> Feeds:
    """Random tokens; `padded` makes the second half of half of the rows padding."""
    mask = np.ones((batch, SEQUENCE), np.int64)
    if padded:
        mask[batch // 2 :, SEQUENCE // 2 :] = 0
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, SEQUENCE))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def our_run(bundle: str, runtime: str, threads: int) -> tuple[Run, str]:
    """The bundle's flavour for a runtime, validated and run as by `edgeattn.load`, without spinning; and what it is."""
    opened = open_bundle(bundle)
    engine, device = registry.parse_target(runtime)
    flavours = pick_flavours(opened, engine, device)
    session = open_session(opened, flavours, engine, LoadOptions(device=device, threads=threads, spin=False))

    def run(feeds: Feeds) -> list[np.ndarray]:
        found = session.run(feeds)
        return [found[name] for name in peers.OUTPUTS]

    return run, f"{session.effective.summary()}; lowerings: {', '.join(sorted(set(flavours[0].lowerings.values())))}"


def error_of(found: list[np.ndarray], truth: list[np.ndarray], feeds: Feeds) -> float:
    """Largest difference over both outputs, padded positions left out."""
    seen = feeds["attention_mask"].astype(bool)
    hidden = np.abs(found[0] - truth[0])[seen].max()
    return float(max(hidden, np.abs(found[1] - truth[1]).max()))


def measure(candidates: dict[str, Run], reference: str, case: str, repeats: int) -> list[dict[str, Any]]:
    """Time the candidates that agree with `reference` in turn; rows in the order of `candidates`."""
    feeds = make_feeds(*CASES[case])
    truth = [np.array(value) for value in candidates[reference](feeds)]
    errors = {name: error_of(run(feeds), truth, feeds) for name, run in candidates.items()}
    right = [name for name, error in errors.items() if error <= WRONG]
    runs = [lambda run=candidates[name]: run(feeds) for name in right]  # type: ignore[misc]
    timings = dict(zip(right, interleave(runs, repeats, warmup=3), strict=True))
    rows = []
    for name, error in errors.items():
        row: dict[str, Any] = {"case": case, "candidate": name, "max_error": error}
        if name in timings:
            row |= dataclasses.asdict(summarize(timings[name]))
            if name != OURS and OURS in timings:
                row["ours_to_it"] = dataclasses.asdict(compare_timings(timings[OURS], timings[name]))
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A table for people, and whether ours is at or below the best peer."""
    width = max(len(row["candidate"]) for row in rows)
    print(f"  {'':{width}}  median ms     p90   ours / it              max error")
    for row in rows:
        if "median_ms" not in row:
            print(f"  {row['candidate']:{width}}  wrong: differs from PyTorch by {row['max_error']:.1e}")
            continue
        ratio = row.get("ours_to_it")
        text = f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""
        print(
            f"  {row['candidate']:{width}}  {row['median_ms']:9.2f}  {row['p90_ms']:6.2f}   {text:20}   {row['max_error']:.1e}"
        )
    timed = {row["candidate"]: row for row in rows if "median_ms" in row}
    others = [row for name, row in timed.items() if name != OURS]
    if OURS in timed and others:
        best = min(others, key=lambda row: row["median_ms"])
        ratio = best["ours_to_it"]
        print(f"  against the best peer ({best['candidate']}): {ratio['value']:.2f}, {ratio['verdict']}")


def gather(runtime: str, arguments: argparse.Namespace) -> tuple[dict[str, Run], str]:
    """PyTorch, the peers' files on `runtime`, and ours; and what ours really uses."""
    work, threads = Path(arguments.work), arguments.threads
    candidates: dict[str, Run] = {"torch eager": peers.torch_eager(threads)}
    if runtime == "onnxruntime":
        files, load = peers.onnxruntime_files(work, arguments.optimum_python), peers.onnxruntime_run
    else:
        files, load = peers.openvino_files(work, arguments.optimum_intel_python), peers.openvino_run
    for name, path in files.items():
        candidates[name] = load(path, threads)
    if not arguments.bundle:
        return candidates, "no bundle given: peers alone"
    candidates[OURS], effective = our_run(arguments.bundle, runtime, threads)
    return candidates, effective


def main() -> None:
    """Parse, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="what `edgeattn export minilm -o out/minilm` wrote; without it, peers alone")
    parser.add_argument("--runtime", choices=["onnxruntime", "openvino"], action="append", help="default: both")
    parser.add_argument("--case", choices=list(CASES), action="append", help="default: all")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default="out/peers", help="where the peers' files are kept (default: out/peers)")
    parser.add_argument("--optimum-python", help="interpreter of an environment with optimum-onnx")
    parser.add_argument("--optimum-intel-python", help="interpreter of an environment with optimum-intel")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": machine.facts(), "packages": machine.package_versions(), "rows": []}
    for runtime in arguments.runtime or ("onnxruntime", "openvino"):
        candidates, effective = gather(runtime, arguments)
        print(f"{runtime}, {arguments.threads} threads, sequence {SEQUENCE}, {arguments.repeats} rounds\n  ours: {effective}")
        for case in arguments.case or CASES:
            rows = measure(candidates, "torch eager", case, arguments.repeats)
            print(f"\n {case}")
            show(rows)
            report["rows"] += [{"runtime": runtime, "effective": effective, **row} for row in rows]
            sys.stdout.flush()
        print()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
