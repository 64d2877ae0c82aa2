"""Which lowering a site gets on a target: what was forced, else the first default that accepts the site and is proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeattn.errors import LoweringError
from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.lowerings.defaults import FALL_BACK, candidates
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes.base import Runtime


@dataclass(frozen=True, slots=True)
class Choice:
    """A lowering and why it: the reason in the first line, then a line for each form that was tried before it."""

    lowering: Lowering
    reason: str


def choose(core: Core, runtime: Runtime, device: str, prover: Prover, forced: str | None = None) -> Choice:
    """The form to write `core` in for `runtime` on `device`.

    Raises:
        LoweringError: the forced lowering does not accept the site or is not proven here, or nothing is proven.
    """
    if forced is not None:
        lowering = get(forced)
        if refusal := _refusal(lowering, core, runtime, device, prover):
            raise LoweringError(
                f"--lowering {forced} cannot write {core.spec.summary()} for {runtime.name}:{device}: {refusal}; "
                "`edgeattn list lowerings` says what each accepts"
            )
        return Choice(lowering, "forced")
    refused: list[str] = []
    for name, why in candidates(runtime.name, core):
        lowering = get(name)
        refusal = _refusal(lowering, core, runtime, device, prover)
        if refusal is None:
            return Choice(lowering, "\n".join([why, *refused]))
        refused.append(f"not {name}: {refusal}")
    raise LoweringError(f"no lowering of {core.spec.summary()} is proven on {runtime.name}:{device}: {'; '.join(refused)}")


def choose_portable(core: Core, targets: Sequence[tuple[Runtime, str]], prover: Prover) -> Choice:
    """The plainest form in standard operators that is proven on every target.

    Raises:
        LoweringError: none is.
    """
    refused: list[str] = []
    for name in FALL_BACK:
        lowering = get(name)
        refusals = [_refusal(lowering, core, runtime, device, prover) for runtime, device in targets]
        if not any(refusals):
            return Choice(lowering, "\n".join(["standard operators only", *refused]))
        refused += [
            f"not {name} on {runtime.name}:{device}: {refusal}"
            for (runtime, device), refusal in zip(targets, refusals, strict=True)
            if refusal
        ]
    raise LoweringError(f"no portable form of {core.spec.summary()} is proven on every target: {'; '.join(refused)}")


def _refusal(lowering: Lowering, core: Core, runtime: Runtime, device: str, prover: Prover) -> str | None:
    status, reason = prover.verdict(lowering, core, runtime, device)
    return None if status == "pass" else reason if status == "refused" else f"its probe fails here ({reason})"
