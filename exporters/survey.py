"""What each attention variant becomes on the runtimes that are here: the form chosen, its cost, and what was refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.errors import LoweringError
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import WHOLE
from edgeattn.exporters.probing import Prover
from edgeattn.models import example, list_variants, variant_paper, variant_summary
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime
from edgeattn.spec import SoftmaxAttention


@dataclass(frozen=True, slots=True)
class FormVerdict:
    """One lowering of a variant's core on one runtime: `pass`, `refused` (the form cannot say it) or `fails` (it is wrong)."""

    lowering: str
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """What a variant gets on one runtime. `status`: `pass`, `fails` (no form is proven) or `not run` (it is not here).

    `time` and `memory` are the order of the chosen form, per head. `forms` is filled by a full survey only.
    """

    status: str
    lowering: str = ""
    time: str = ""
    memory: str = ""
    reason: str = ""
    forms: tuple[FormVerdict, ...] = ()


@dataclass(frozen=True, slots=True)
class VariantReport:
    """A variant, where it was published, its core (the first, where it has several), and its targets by name."""

    name: str
    summary: str
    paper: str
    spec: str
    runtimes: dict[str, TargetVerdict]


def survey(
    names: Sequence[str] | None = None, full: bool = False, say: Callable[[str], None] = lambda _: None
) -> list[VariantReport]:
    """A row per variant, or per named one. `full` tries every lowering, not only those up to the chosen one.

    Raises:
        UsageError: an unknown name.
    """
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        prover = Prover(Path(folder))
        for name in list_variants() if names is None else names:
            say(f"probing {name}")
            cores = example_cores(name)
            targets = {runtime: _target(registry.get(runtime), cores, prover, full) for runtime in registry.deployable()}
            reports.append(VariantReport(name, variant_summary(name), variant_paper(name), cores[0].spec.summary(), targets))
    return reports


def example_cores(name: str) -> list[Core]:
    """The attention cores of a variant's example, equal ones once."""
    module, _, dynamic = example(name)
    symbols = {str(symbol) for axes in dynamic.values() for axis, symbol in axes.items() if axis > 0}
    found = (getattr(part, "spec", None) for part in module.modules())
    specs = [spec for spec in found if isinstance(spec, SoftmaxAttention)]
    return [Core(spec, square=len(symbols) == 1) for spec in dict.fromkeys(specs)]


def _target(runtime: Runtime, cores: Sequence[Core], prover: Prover, full: bool) -> TargetVerdict:
    availability = runtime.check()
    if not availability.ok:
        return TargetVerdict("not run", reason=availability.reason)
    device = runtime.devices()[0]
    try:
        chosen = [choose(core, runtime, device, prover).lowering for core in cores]
    except LoweringError as error:
        return TargetVerdict("fails", reason=str(error))
    tried = WHOLE if full else {}
    forms = tuple(FormVerdict(name, *prover.verdict(form, cores[0], runtime, device)) for name, form in tried.items())
    names = " + ".join(dict.fromkeys(lowering.name for lowering in chosen))
    return TargetVerdict("pass", names, chosen[0].time, chosen[0].memory, forms=forms)
