"""What an export did, as data: the table at the end of `edgeattn export` and its --json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.reference_run import ReferenceCase
from edgeattn.manifest import Flavour, Site
from edgeattn.spec import to_dict


@dataclass(frozen=True, slots=True)
class FlavourReport:
    """A flavour with its size in bytes (graph and shared weights) and, where its gate failed, the reason and the smallest
    case that shows it."""

    flavour: Flavour
    size: int
    failure: str = ""
    failed: ReferenceCase | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export. `passed` is False when any flavour's gate failed; `output` is None when nothing was kept.

    `refused`: modality -> why its pre-processing could not be taken along. `parts`: the same for every further model of the
    bundle; what they have in common with the first one is said there.
    """

    source: str
    output: Path | None
    sites: tuple[Site, ...]
    unraised: tuple[str, ...]
    flavours: tuple[FlavourReport, ...]
    size: int
    seconds: float
    refused: dict[str, str] = field(default_factory=dict)
    parts: dict[str, ExportReport] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    """What the search for smaller numbers found, one for each target and precision."""

    @property
    def passed(self) -> bool:
        """Whether every flavour equals the PyTorch model."""
        return bool(self.flavours) and not self.failures and not self.refusals

    @property
    def refusals(self) -> list[str]:
        """Smaller numbers that were asked for and are not there, and why."""
        return [f"{outcome.target}: {outcome.reason}" for outcome in self.outcomes if outcome.reason]

    @property
    def failures(self) -> list[str]:
        """Every flavour that is not the same model, and why."""
        parts = [f"{name} {failure}" for name, report in self.parts.items() for failure in report.failures]
        return parts + [f"{row.flavour.label}: {row.failure}" for row in self.flavours if row.failure]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "source": self.source,
            "output": None if self.output is None else str(self.output),
            "passed": self.passed,
            "sites": [
                {"name": s.name, "module": s.module, "function": s.function, "spec": to_dict(s.spec)} for s in self.sites
            ],
            "unraised": list(self.unraised),
            "refused": dict(self.refused),
            "flavours": [{**dataclasses.asdict(r.flavour), "size": r.size, "failure": r.failure} for r in self.flavours],
            "size": self.size,
            "seconds": round(self.seconds, 3),
            **({"smaller": [outcome.to_dict() for outcome in self.outcomes]} if self.outcomes else {}),
            **({"parts": {name: report.to_dict() for name, report in self.parts.items()}} if self.parts else {}),
        }
