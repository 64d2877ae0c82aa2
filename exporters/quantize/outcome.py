"""What a search for smaller numbers found, as data: the table at the end of `edgeattn export --precision`, and its --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeattn.exporters.quantize.trials import Trial


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target: everything tried, what was chosen, its scores on inputs that nothing had seen, or why nothing was chosen.

    `samples` are those inputs (tokens of a text), `origin` where they come from. `sensitivity`: kind -> weights -> dB, as
    `sensitivity.sensitivities`; of a search alone.
    """

    target: str
    trials: tuple[Trial, ...]
    chosen: Trial | None
    scores: dict[str, float]
    samples: int
    reason: str = ""
    origin: str = ""
    sensitivity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def best(self) -> list[Trial]:
        """The trials of which none is both faster and nearer to full precision, the fastest first: the Pareto front."""
        timed = [trial for trial in self.trials if trial.time is not None]
        return sorted((t for t in timed if not any(_beats(other, t) for other in timed)), key=_ratio)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [
            {
                "name": trial.name,
                "kinds": trial.used,
                "kv": trial.kv,
                "token": trial.token,
                "scores": trial.scores,
                "size": trial.size,
                "time": None if trial.time is None else asdict(trial.time),
                "pareto": trial in self.best,
                "chosen": trial is self.chosen,
            }
            for trial in self.trials
        ]
        own = {name: getattr(self, name) for name in ("target", "scores", "samples", "reason", "origin", "sensitivity")}
        return {**own, "trials": rows}


def _beats(one: Trial, other: Trial) -> bool:
    """Whether `one` is at least as good in both, and better in one of them."""
    mine, theirs = (-_ratio(one), _fidelity(one)), (-_ratio(other), _fidelity(other))
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _ratio(trial: Trial) -> float:
    return trial.time.value if trial.time else float("inf")


def _fidelity(trial: Trial) -> float:
    scores = trial.scores
    return -scores["perplexity_rise"] if "perplexity_rise" in scores else scores["cosine"]
