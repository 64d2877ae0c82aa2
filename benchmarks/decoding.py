"""A language model with its cache, ours against its peers in the same rounds: the time to the first token, tokens per second
behind a long past, peak memory, and what its products with weights alone would allow.

python benchmarks/decoding.py out/smollm2 --peers-python out/optimum/bin/python --json out/decoding.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from alone import alone
from cores import Cores, by_distance
from decoder_files import peer_folders, source_file
from decoders import Decoder, GenAI, Ints, LlamaCpp, OptimumIntel, OptimumOnnx, Ours, TorchEager
from decoding_table import show

from edgeattn import machine
from edgeattn.benchmarking.fresh import peak_mb
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.bundle import open_bundle
from edgeattn.manifest import FP32
from edgeattn.parity import compare_arrays

Times = dict[str, dict[str, list[float]]]
"""Seconds in each round, by case and candidate."""

PEERS: dict[str, Callable[[Path, int], Decoder]] = {
    "torch eager": TorchEager,
    "optimum-onnx": OptimumOnnx,
    "onnxruntime-genai": GenAI,
    "optimum-intel": OptimumIntel,
}
REFERENCE = "torch eager"
LIMIT = "bare MatMuls on "
OURS = "edgeattn on "
CHUNK = 256
"""A past is read in pieces of this many tokens: nobody's memory of a whole long prompt's logits is measured here."""
_NEAR = 0.95
"""The cosine of logits in smaller numbers with PyTorch's."""


def main() -> None:
    """Parse, measure, print, and write JSON where asked."""
    arguments = _arguments()
    makers = _makers(arguments)
    if arguments.alone:
        print(json.dumps(memory(makers[arguments.alone], arguments)))
        return
    rows, seconds, trips = measured(makers, arguments)
    for row in rows:
        if row["candidate"] in makers and not row["wrong"]:
            row["memory"] = alone(row["candidate"])
    report = {
        "machine": machine.facts(),
        "packages": machine.package_versions(),
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "rows": rows,
        "ratios": ratios(seconds),
        "by_distance": {title: _apart(seconds, rounds) for title, rounds in by_distance(trips).items()},
    }
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measured(
    makers: Mapping[str, Callable[[], Decoder]], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], Times, dict[str, list[float]]]:
    """A row for each candidate, the seconds by what was timed, and what a byte took between the cores in each of its rounds. All of
    it twice, the candidates loaded in one order and in the other: what is loaded first may lie badly in memory and then decode some
    percent slower."""
    from products import products_run  # its imports are large, and not to be in the memory of one candidate

    seconds: Times = {}
    trips: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for names in (list(makers), list(reversed(makers))):
        decoders = {name: makers[name]() for name in names}
        limits = {LIMIT + name: products_run(arguments.bundle, name, arguments.threads) for name in arguments.runtime}
        wrong = failed(decoders, arguments.vocabulary)
        right = {name: decoder for name, decoder in decoders.items() if name not in wrong}
        with Cores() as cores:
            for case, timed in _cases(right, limits, arguments, cores):
                for name, times in timed.items():
                    seconds.setdefault(case, {}).setdefault(name, []).extend(times)
                trips.setdefault(case, []).extend(cores.rounds())
        rows = rows or [_row(name, decoders.get(name), wrong.get(name, "")) for name in (*decoders, *limits)]
    for row in rows:
        row["cases"] = _summaries(seconds, row["candidate"])
    return rows, seconds, trips


def _cases(
    decoders: Mapping[str, Decoder], limits: Mapping[str, Callable[[], object]], arguments: argparse.Namespace, cores: Cores
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    yield f"prompt of {arguments.prompt}", prompts(decoders, arguments, cores)
    for past in arguments.past:
        yield f"behind {past}", steps(decoders, past, arguments, limits, cores)


def _summaries(seconds: Times, candidate: str) -> dict[str, Any]:
    return {case: asdict(summarize(times[candidate])) for case, times in seconds.items() if candidate in times}


def _apart(seconds: Times, rounds: Mapping[str, list[int]]) -> dict[str, Any]:
    """What some of the rounds of each case say alone."""
    some = {case: {name: [times[i] for i in rounds[case]] for name, times in seconds[case].items()} for case in rounds}
    names = dict.fromkeys(name for times in some.values() for name in times)
    return {
        "rounds": {case: len(places) for case, places in rounds.items()},
        "rows": [{"candidate": name, "cases": _summaries(some, name)} for name in names],
        "ratios": ratios(some),
    }


def failed(decoders: Mapping[str, Decoder], vocabulary: int) -> dict[str, str]:
    """Why a candidate is not the model that PyTorch runs, by its logits behind a prompt and behind one more token: in smaller
    numbers by their direction, which another model's would not have."""
    tokens = _random(64, vocabulary)
    found = {}
    for name, decoder in decoders.items():
        decoder.reset(len(tokens) + 2)
        found[name] = np.stack([decoder.read(tokens), decoder.step(1)])
    truth = found[REFERENCE if REFERENCE in found else next(name for name, decoder in decoders.items() if decoder.exact)]
    compared = {name: compare_arrays("logits", logits, truth, "decoder") for name, logits in found.items()}
    wrong = {name: result for name, result in compared.items() if not result.passed}
    return {
        name: f"differs by {result.max_abs:.1e}, cosine {result.cosine:.4f}"
        for name, result in wrong.items()
        if decoders[name].exact or result.cosine < _NEAR
    }


def prompts(decoders: Mapping[str, Decoder], arguments: argparse.Namespace, cores: Cores) -> dict[str, list[float]]:
    """Seconds to the first token, its choice included, of a sequence that begins."""
    tokens = _random(arguments.prompt, arguments.vocabulary)

    def first(decoder: Decoder) -> int:
        decoder.reset(len(tokens) + 1)
        return int(decoder.read(tokens).argmax())

    runs = [partial(first, decoder) for decoder in decoders.values()]
    times = interleave(runs, arguments.repeats, warmup=1, between=cores.look)
    return dict(zip(decoders, times, strict=True))


def steps(
    decoders: Mapping[str, Decoder],
    past: int,
    arguments: argparse.Namespace,
    limits: Mapping[str, Callable[[], object]],
    cores: Cores,
) -> dict[str, list[float]]:
    """Seconds of one token, its choice included, behind `past` others; and of the bare products."""
    for decoder in decoders.values():
        fill(decoder, _random(past, arguments.vocabulary), (1 + arguments.turns) * arguments.in_a_row)
    candidates = [*map(Greedy, decoders.values()), *limits.values()]
    times = interleave(candidates, arguments.turns, warmup=1, in_a_row=arguments.in_a_row, between=cores.look)
    return dict(zip((*decoders, *limits), times, strict=True))


def fill(decoder: Decoder, tokens: Ints, more: int) -> None:
    """Begin again with these tokens, in pieces, and room for some more."""
    decoder.reset(len(tokens) + more)
    for start in range(0, len(tokens), CHUNK):
        decoder.read(tokens[start : start + CHUNK])


class Greedy:
    """Each call makes one token and feeds it to the next call."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._token = decoder, 1

    def __call__(self) -> None:
        self._token = int(self._decoder.step(self._token).argmax())


def memory(maker: Callable[[], Decoder], arguments: argparse.Namespace) -> dict[str, float | None]:
    """Peak MB of this process, which must be fresh: as it is, after a prompt and some tokens, behind the longest past."""
    found = {"base_mb": peak_mb()}
    decoder = maker()
    for name, past in (("prompt_mb", arguments.prompt), ("longest_mb", max(arguments.past))):
        fill(decoder, _random(past, arguments.vocabulary), 16)
        run = Greedy(decoder)
        for _ in range(16):
            run()
        found[name] = peak_mb()
    return found


def ratios(seconds: Times) -> list[dict[str, Any]]:
    """Our time over each other's, and in smaller numbers over our own in full, for every case that both are in."""
    found = []
    for case, times in seconds.items():
        for ours in (name for name in times if name.startswith(OURS)):
            for peer in (name for name in times if not name.startswith(OURS) or ours.startswith(f"{name} ")):
                ratio = asdict(compare_timings(times[ours], times[peer]))
                found.append({"case": case, "ours": ours, "peer": peer, **ratio})
    return found


def _row(name: str, decoder: Decoder | None, wrong: str) -> dict[str, Any]:
    row: dict[str, Any] = {"candidate": name, "about": decoder.about if decoder else "", "wrong": wrong}
    if decoder and not wrong:
        row["cache_bytes_per_token"] = decoder.cache_bytes()
    return row


def _makers(arguments: argparse.Namespace) -> dict[str, Callable[[], Decoder]]:
    """Every candidate by name; made when it is called."""
    found: dict[str, Callable[[], Decoder]] = {}
    for runtime in arguments.runtime:
        for precision in open_bundle(arguments.bundle).manifest.precisions(f"{runtime}:cpu"):
            name = OURS + runtime + ("" if precision == FP32 else f" {precision}")
            found[name] = partial(Ours, arguments.bundle, runtime, arguments.threads, precision)
    folders = peer_folders(arguments.peers, arguments.gguf, arguments.peers_python) if arguments.peers else {}
    for name, folder in folders.items():
        found[name] = partial(PEERS[name], folder, arguments.threads)
    if arguments.peers and find_spec("llama_cpp"):
        found["llama.cpp"] = partial(LlamaCpp, source_file(arguments.gguf), arguments.threads)
    return found


def _random(count: int, vocabulary: int) -> Ints:
    """Tokens of any meaning, (S,)."""
    return np.random.default_rng(0).integers(vocabulary, size=count)


def _vocabulary(bundle: str) -> int:
    size = next((info.dims[-1] for info in open_bundle(bundle).manifest.outputs if info.name == "logits"), None)
    return size if isinstance(size, int) else 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-r", "--runtime", action="append", help="of ours; default: onnxruntime and openvino")
    parser.add_argument("--past", type=int, action="append", help="tokens before those timed; default 128, 1024 and 4096")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--turns", type=int, default=6, help="turns timed behind each past")
    parser.add_argument("--in-a-row", type=int, default=32, help="tokens that a candidate makes in a turn")
    parser.add_argument("--repeats", type=int, default=11, help="prompts timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, help="the bundle's source; default: that of the name `smollm2`")
    parser.add_argument("--peers", type=Path, help="where the peers' files are kept; without it, ours and its limit alone")
    parser.add_argument("--peers-python", help="interpreter of an environment with optimum-onnx and optimum-intel")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.runtime = arguments.runtime or ["onnxruntime", "openvino"]
    arguments.past = arguments.past or [128, 1024, 4096]
    arguments.vocabulary = _vocabulary(arguments.bundle)
    return arguments


if __name__ == "__main__":
    main()
