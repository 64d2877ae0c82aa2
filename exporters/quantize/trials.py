"""Candidates tried: what each scores, how fast it is and how large; remembered, so that a search that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeattn.exams import Budget, Exam
from edgeattn.exporters.quantize.candidate import Timed, Workshop, cache_of, kinds_used
from edgeattn.exporters.quantize.kinds import CACHE, Kinds, for_prompts, for_token
from edgeattn.machine import cpu_identity
from edgeattn.manifest import FP32
from edgeattn.runtimes.base import Session

_FORMAT = 10
_WORTH = 0.97
"""Of the time of what has one graph, that two of them may take at most, which hold nearly twice the weights."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate as it was found: what its layers and its cache are in, `token` what its layers are in for a single token where that
    has a graph of its own, `size` in bytes, `time` over full precision (None where only its scores were asked), and whether that
    is from `Trials.side_by_side`."""

    kinds: Kinds
    used: dict[str, int]
    kv: str
    scores: dict[str, float]
    size: int
    time: Timed | None
    compared: bool = False
    token: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`int8-static x36, int8 x2`; a kind alone where it is that of every layer; `int8 + kv-fp16` with a smaller cache;
        `int8-dynamic, a token int4` where a single token has a graph of its own."""
        return described(self.used, self.kv, self.token)

    @property
    def faster(self) -> bool:
        """Whether it was shown to be faster than full precision."""
        return self.time is not None and self.time.verdict == "faster"


def described(used: Mapping[str, int], kv: str, token: Mapping[str, int]) -> str:
    """As `Trial.name`."""
    layers = next(iter(used)) if len(used) == 1 else ", ".join(f"{kind} x{count}" for kind, count in used.items())
    if token:
        layers += f", a token {'the same' if token == used else described(token, FP32, {})}"
    return layers if kv == FP32 else f"{layers} + kv-{kv}"


class Trials:
    """Tries candidates of a workshop on one exam.

    The first that is faster than full precision is the yardstick of those after it: each is timed beside that one, not beside full
    precision, whose own time is mostly that of the memory. Where a host moves a virtual machine between a run and the next, ratios
    to full precision change by a third, those between candidates by little.
    """

    def __init__(self, workshop: Workshop, full: Session, exam: Exam, memory: Memory, say: Callable[[str], None]) -> None:
        self.workshop = workshop
        self._full = full
        self._exam = exam
        self._memory = memory
        self._yardstick: Trial | None = None
        self.say = say

    def run(self, kinds: Kinds, timed: bool = True) -> Trial:
        """Write, load and score a candidate, and time it; or as it is remembered."""
        key, beside = self._key(kinds), "" if self._yardstick is None else self._key(self._yardstick.kinds)
        if self._yardstick is not None and key == beside:
            return self._yardstick
        used, token = (kinds_used(each, self.workshop.layers) for each in (for_prompts(kinds), for_token(kinds)))
        kv = cache_of(kinds)
        known = self._memory.get(key)
        if known is None or (timed and (known["timed"] is None or known["beside"] != beside)):
            self.say(f"trying {described(used, kv, token)}")
            known = {**self._measured(kinds, timed, known), "beside": beside}
            self._memory.put(key, known)
        time = self._over_full(Timed(**known["timed"])) if timed else None
        trial = Trial(kinds, used, kv, known["scores"], known["size"], time, token=token)
        if self._yardstick is None and trial.faster:
            self._yardstick = trial
        return trial

    def side_by_side(self, trials: Sequence[Trial]) -> list[Trial]:
        """The same with times over full precision, of one run."""
        self.say(f"timing {' and '.join(trial.name for trial in trials)} side by side")
        with ExitStack() as stack:
            sessions = [self._opened(trial.kinds, stack)[0] for trial in trials]
            times = self.workshop.times(sessions, self._full)
        return [replace(trial, time=time, compared=True) for trial, time in zip(trials, times, strict=True)]

    def _measured(self, kinds: Kinds, timed: bool, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is not `known` of a candidate: its scores do not change, its time is that beside the yardstick of now."""
        with ExitStack() as stack:
            session, size = self._opened(kinds, stack)
            scores = self._exam.score(session, bool(for_token(kinds))) if known is None else known["scores"]
            if not timed:
                return {"scores": scores, "size": size, "timed": None}
            beside = self._full if self._yardstick is None else self._opened(self._yardstick.kinds, stack)[0]
            return {"scores": scores, "size": size, "timed": asdict(*self.workshop.times([session], beside))}

    def _over_full(self, found: Timed) -> Timed:
        time = None if self._yardstick is None else self._yardstick.time
        return found if time is None else found.through(time)

    def _opened(self, kinds: Kinds, stack: ExitStack) -> tuple[Session, int]:
        """A candidate's session, and the bytes of what was written for it, both gone with `stack`."""
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=self.workshop.folder))
        path, _ = self.workshop.make(kinds, Path(folder), "candidate")
        return stack.enter_context(self.workshop.load(path, kinds)), self._size(path, Path(folder))

    def _key(self, kinds: Kinds) -> str:
        layers = (*self.workshop.layers, CACHE)
        parts = (for_prompts(kinds), for_token(kinds))
        return ";".join(",".join(part[layer].name if layer in part else "-" for layer in layers) for part in parts if part)

    def _size(self, path: Path, folder: Path) -> int:
        """Of what was written, or of the flavour itself."""
        if path.parent != folder:
            return self.workshop.bundle.flavour_size(self.workshop.flavour)
        return sum(file.stat().st_size for file in folder.iterdir())

    def quick(self) -> Trials:
        """The same on a third of the exam, for what is only to be ranked."""
        part = self._exam.first(max(1, self._exam.units // 3))
        return Trials(self.workshop, self._full, part, Memory(self.workshop, part), self.say)


class Memory:
    """What was found before for the same weights, exam, runtime and machine, in a file of the user's cache."""

    def __init__(self, workshop: Workshop, exam: Exam) -> None:
        entries = workshop.bundle.manifest.files
        graph = entries[workshop.flavour.file].sha256
        weights = sorted(entry.sha256 for name, entry in entries.items() if name.endswith(".bin"))
        inputs, outputs = exam.tensors(exam.samples)
        digest = hashlib.sha256()
        for part in (
            _FORMAT,
            graph,
            *weights,
            workshop.runtime.name,
            workshop.runtime.check().version,
            cpu_identity(),
            exam.identity,
            workshop.method,
        ):
            digest.update(f"{part}\n".encode())
        for feeds in (inputs, outputs, *workshop.calibration):
            for name, array in feeds.items():
                digest.update(name.encode() + array.tobytes())
        self._path = _cache() / f"{digest.hexdigest()[:32]}.json"
        self._known: dict[str, dict[str, Any]] = _read(self._path)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was found for a candidate."""
        return self._known.get(key)

    def put(self, key: str, found: dict[str, Any]) -> None:
        """Keep it, on disk too."""
        self._known[key] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(self._known))
        partial.replace(self._path)


def holding(trials: list[Trial], budget: Budget) -> list[Trial]:
    """Those that keep the budget, the fastest first; of those within a hundredth, which timing does not tell apart, the one that
    was tried first. A second graph has to be worth its weights. What was compared side by side comes before what was timed by itself."""
    kept = [trial for trial in trials if budget.holds(trial.scores) and trial.time is not None]
    return sorted(kept, key=lambda trial: (not trial.compared, round(_weighed(trial), 2)))


def _weighed(trial: Trial) -> float:
    assert trial.time is not None
    return trial.time.value / (_WORTH if trial.token else 1.0)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeattn" / "trials"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
