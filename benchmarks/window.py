"""Attention to a part of the keys, alone: our form in tiles against each runtime's own forms and compiled flex_attention.

python benchmarks/window.py --length 4096
python benchmarks/window.py --length 8192 --slope --peers contrib-gqa
python benchmarks/window.py --pattern bigbird
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calm  # noqa: F401
import numpy as np
import onnx_ir as ir
import torch
from cores import Cores, by_distance
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from edgeattn.benchmarking.fresh import peak_mb
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import compare_timings, summarize
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover, probe_model
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Session
from edgeattn.spec import AttentionSpec, BlockSparse, Dilated, GlobalLocal, Pattern, SlidingWindow, SoftmaxAttention

OURS = {"window": "blocked", "dilated": "blocked", "global": "blocked-global", "bigbird": "gather-blocks"}
DENSE = {
    "onnxruntime": ("contrib-gqa", "attention-23", "decomposed"),
    "openvino": ("attention-23", "contrib-mha", "decomposed"),
}
"""The runtime's own operators first; all hold or walk the whole square."""
BLOCK, SIZE = 64, 64
PROVEN_AT = 1024
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class _Case:
    """One attention at one length."""

    name: str
    heads: int
    window: int
    length: int

    @property
    def spec(self) -> AttentionSpec:
        return SoftmaxAttention(self.heads, self.heads, SIZE, pattern=self._pattern)

    @property
    def _pattern(self) -> Pattern:
        match self.name:
            case "window":
                return SlidingWindow(self.window - 1, 0)
            case "dilated":
                return Dilated(self.window - 1, 0, 4)
            case "global":
                return GlobalLocal(self.window // 2, self.window - self.window // 2 - 1, BLOCK)
        return BlockSparse(BLOCK, _bigbird(-(-self.length // BLOCK), self.window // BLOCK // 2))

    def feeds(self) -> dict[str, NDArray[Any]]:
        rows = np.random.default_rng(0).standard_normal((3, 1, self.heads, self.length, SIZE), dtype=np.float32)
        return dict(zip("qkv", rows, strict=True))


@dataclass(slots=True)
class _Folder:
    """Where the models of a run are written."""

    path: Path
    prover: Prover = field(init=False)

    def __post_init__(self) -> None:
        self.prover = Prover(self.path / "proofs")

    def model(self, form: str, case: _Case, runtime: str) -> Path | None:
        """The form's model, None where it does not take the case or is wrong. A layout is proven at a length that numpy bears."""
        small = _Case(case.name, case.heads, case.window, min(case.length, PROVEN_AT))
        core = Core(small.spec, square=True, max_keys=case.length)
        if get(form).accepts(core) or not self.prover.prove(get(form), core, registry.get(runtime), "cpu").passed:
            return None
        path = self.path / f"{form}-{case.name}-{case.length}.onnx"
        if not path.exists():
            ir.save(probe_model(get(form), Core(case.spec, square=True, max_keys=case.length)), path)
        return path


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", choices=list(OURS), default="window")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256, help="keys that a window holds (default 256)")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("-r", "--runtime", choices=list(DENSE), action="append", help="default: both")
    parser.add_argument(
        "--peers", nargs="*", help="only these forms besides ours; dense ones need much memory at great lengths"
    )
    parser.add_argument("--no-flex", action="store_true", help="without torch's flex_attention, whose compilation takes long")
    parser.add_argument("--slope", action="store_true", help="also our form at twice the length, in the same rounds")
    parser.add_argument("--peak", nargs=3, metavar=("RUNTIME", "MODEL", "LENGTH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    case = _Case(arguments.pattern, arguments.heads, arguments.window, arguments.length)
    if arguments.peak:
        runtime, model, length = arguments.peak
        print(json.dumps(_extra_memory(runtime, Path(model), _Case(case.name, case.heads, case.window, int(length)))))
        return
    flex = None if arguments.no_flex else _flex(case)
    for runtime in arguments.runtime or DENSE:
        with tempfile.TemporaryDirectory() as folder:
            chosen = DENSE[runtime] if arguments.peers is None else arguments.peers
            _measure(_Folder(Path(folder)), runtime, case, [OURS[case.name], *chosen], flex, arguments)


def _measure(
    folder: _Folder,
    runtime: str,
    case: _Case,
    forms: list[str],
    flex: Callable[[], object] | None,
    arguments: argparse.Namespace,
) -> None:
    """Print a table for one runtime: time and its ratio to ours, and the memory that a run adds in a fresh process."""
    models = {form: model for form in forms if (model := folder.model(form, case, runtime))}
    cases = dict.fromkeys(models, case)
    if arguments.slope:
        cases["twice"] = _Case(case.name, case.heads, case.window, 2 * case.length)
        models["twice"] = folder.model(forms[0], cases["twice"], runtime) or Path()
    memory = {name: _fresh_memory(runtime, model, cases[name]) for name, model in models.items()}  # while nothing is loaded
    calls = {name: _call(runtime, model, cases[name]) for name, model in models.items()}
    if flex is not None:
        calls["flex_attention"] = flex
    with Cores() as cores:
        timings = interleave(list(calls.values()), arguments.repeats, warmup=1, between=cores.look)
        rounds = by_distance({runtime: cores.rounds()})
    print(f"{runtime}, {case.heads} heads x {SIZE}, length {case.length}, {case.spec.pattern.summary()}")
    for title, chosen in rounds.items():
        print(f" {title}, {len(chosen[runtime])} rounds")
        some = [[seconds[i] for i in chosen[runtime]] for seconds in timings]
        _show(dict(zip(calls, some, strict=True)), memory, forms[0], case)


def _show(timings: dict[str, list[float]], memory: dict[str, float], first: str, case: _Case) -> None:
    """A line for each candidate."""
    for name, seconds in timings.items():
        held = f"{memory[name]:9.1f} MB" if name in memory else " " * 12
        ratio = compare_timings(seconds, timings[first])
        label = f"{first} at {2 * case.length}" if name == "twice" else name
        times = f"{summarize(seconds).median_ms:9.1f} ms {held}"
        print(f"  {label:24} {times}  {ratio.value:5.2f}x of {first} [{ratio.low:.2f}, {ratio.high:.2f}]")


def _call(runtime: str, model: Path, case: _Case) -> Callable[[], object]:
    session, feeds = _load(runtime, model), case.feeds()
    return lambda: session.run(feeds)


def _load(runtime: str, model: Path) -> Session:
    return registry.get(runtime).load(model, LoadOptions(spin=False))


def _fresh_memory(runtime: str, model: Path, case: _Case) -> float:
    """`_extra_memory` in a process that has run nothing else."""
    options = ["--pattern", case.name, "--heads", str(case.heads), "--window", str(case.window)]
    command = [sys.executable, __file__, *options, "--peak", runtime, str(model), str(case.length)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return float(json.loads(done.stdout))


def _extra_memory(runtime: str, model: Path, case: _Case) -> float:
    """MB by which a first run raises this process's peak."""
    feeds = case.feeds()
    with _load(runtime, model) as session:
        before = peak_mb()
        session.run(feeds)
        after = peak_mb()
    return float("nan") if before is None or after is None else after - before


def _flex(case: _Case) -> Callable[[], object] | None:
    """torch's compiled flex_attention, which skips hidden blocks; None, with the reason printed, where it does not compile."""
    q, k, v = (torch.from_numpy(value) for value in case.feeds().values())
    try:
        mask = create_block_mask(_mask_of(case.spec.pattern), None, None, case.length, case.length, device="cpu")
        compiled = torch.compile(flex_attention)
        with torch.no_grad():
            compiled(q, k, v, block_mask=mask)
    except RuntimeError as error:  # of dynamo and inductor: a C++ compiler is missing or too old, above all
        print(f"flex_attention is left out: {str(error).strip().splitlines()[0]:.120}")
        return None

    def run() -> object:
        with torch.no_grad():
            return compiled(q, k, v, block_mask=mask)

    return run


@dataclass(frozen=True, slots=True)
class _Pair:
    """`edgeattn.patterns.Places` of one query and one key, as flex_attention asks for them."""

    rows: Any
    keys: Any
    prefix: Any = None

    def queries(self, alignment: str = "upper_left") -> Any:
        return self.rows

    def look_up(self, table: tuple[tuple[str, ...], ...], rows: Any, columns: Any) -> Any:
        bits = torch.tensor([[entry == "1" for entry in row] for row in table[0]])
        return bits[rows, columns]


def _mask_of(pattern: Pattern) -> Callable[[Any, Any, Any, Any], Any]:
    return lambda batch, head, row, key: pattern.sees(_Pair(row, key))


def _bigbird(blocks: int, beside: int) -> tuple[tuple[str, ...], ...]:
    """`beside` blocks on either side, the first block global, two random ones in each row."""
    rows = np.arange(blocks)
    table = abs(rows[:, None] - rows) <= beside
    table[0] = table[:, 0] = True
    table[rows[:, None], np.random.default_rng(0).integers(0, blocks, (blocks, 2))] = True
    return (tuple("".join("01"[entry] for entry in row) for row in table.astype(int)),)


if __name__ == "__main__":
    main()
