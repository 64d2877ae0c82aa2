"""Does the exported language model predict English as the PyTorch model does? Perplexity on Wikipedia, in windows.

Articles come from gensim's test data, see wikipedia.py. Each window is read alone, and its first token is not scored.
Run: `python benchmarks/perplexity.py out/smollm2`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from decoder_files import read_source
from numpy.typing import NDArray
from wikipedia import articles

from edgeattn import machine
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.decoding.tokens import Tokens
from edgeattn.runtimes import registry

Ints = NDArray[np.int64]
Logits = Callable[[Ints], NDArray[np.float32]]
"""A window (S,) -> logits (S, V)."""


def windows(bundle: Bundle, size: int, count: int) -> list[Ints]:
    """At least `count` tokens in windows of `size`, from the start of every article that is long enough, then their second
    windows, and so on: many subjects, few tokens of each."""
    tokens = Tokens(bundle)
    read = [tokens.encode([text])[0][0] for text in articles()]
    found: list[Ints] = []
    for start in range(0, max(map(len, read)), size):
        for ids in read:
            if len(found) * size >= count:
                return found
            if start + size <= len(ids):
                found.append(ids[start : start + size])
    raise SystemExit(f"the articles make {len(found)} windows of {size}, {count} tokens were asked; give a smaller --tokens")


def perplexity(logits: Logits, texts: list[Ints]) -> float:
    """exp of the mean negative log probability of each token behind those before it, in float64."""
    total = 0.0
    for done, ids in enumerate(texts, 1):
        scores = logits(ids)[:-1].astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        right = scores[np.arange(len(scores)), ids[1:]]
        total += float((np.log(np.exp(scores, out=scores).sum(axis=1)) - right).sum())
        print(f"\r{done}/{len(texts)} windows", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    return math.exp(total / sum(len(ids) - 1 for ids in texts))


def with_torch(gguf: Path | None) -> Logits:
    """PyTorch on the model that the bundle was made of, as `read_source`."""
    import torch

    model = read_source(gguf).model

    def run(ids: Ints) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = model(input_ids=torch.from_numpy(ids)[None]).logits[0].numpy()
            return found

    return run


def with_runtime(bundle: Bundle, name: str, precision: str, texts: list[Ints]) -> tuple[float, str]:
    """Perplexity on a runtime, and what it really used."""
    with load_decoder(bundle, name, precision=precision) as session:

        def run(ids: Ints) -> NDArray[np.float32]:
            session.reset()
            return session.prefill(ids[None])[0]

        return perplexity(run, texts), session.session.effective.summary()


def main() -> None:
    """Print the perplexity of PyTorch and of every runtime that is here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime and openvino")
    parser.add_argument("--tokens", type=int, default=50_000, help="at least as many are read (default: 50000)")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--gguf", type=Path, help="the bundle's source; default: that of the name `smollm2`")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    texts = windows(bundle, arguments.window, arguments.tokens)
    print(f"{sum(map(len, texts))} tokens in {len(texts)} windows of {arguments.window}")
    started = time.perf_counter()
    truth = perplexity(with_torch(arguments.gguf), texts)
    found: list[dict[str, Any]] = [_row("pytorch", truth, truth, time.perf_counter() - started)]
    for name in arguments.runtime or ("onnxruntime", "openvino"):
        if not registry.get(name).check().ok:
            print(f"{name:12} is not installed")
            continue
        for precision in bundle.manifest.precisions(f"{name}:cpu"):
            started = time.perf_counter()
            value, effective = with_runtime(bundle, name, precision, texts)
            row = _row(f"{name} {precision}", value, truth, time.perf_counter() - started)
            found.append(row | {"effective": effective})
    if arguments.json:
        report = {"machine": machine.facts(), "packages": machine.package_versions(), "rows": found}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def _row(name: str, value: float, truth: float, seconds: float) -> dict[str, Any]:
    print(f"{name:16} {value:.6f}  ({value / truth - 1:+.1e} of PyTorch's, in {seconds:.0f} s)", flush=True)
    return {"runtime": name, "perplexity": value, "relative": value / truth - 1, "seconds": seconds}


if __name__ == "__main__":
    main()
