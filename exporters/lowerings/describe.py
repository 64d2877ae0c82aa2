"""What `edgeattn list lowerings` tells: what each form accepts and whether it is proven on the runtimes here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.lowerings.registry import LOWERINGS
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry
from edgeattn.spec import Causal, SlidingWindow, SoftmaxAttention

SAMPLES = {
    "full": Core(SoftmaxAttention(4, 4, 32), square=True),
    "key padding": Core(SoftmaxAttention(4, 4, 32, mask="key_padding"), square=True),
    "causal": Core(SoftmaxAttention(4, 4, 32, pattern=Causal()), square=True),
    "grouped causal": Core(SoftmaxAttention(6, 2, 32, pattern=Causal()), square=True),
    "causal window": Core(SoftmaxAttention(4, 4, 32, pattern=SlidingWindow(15, 0)), square=True),
    "softcap": Core(SoftmaxAttention(4, 4, 32, softcap=20.0, mask="key_padding"), square=True),
}
"""Cores that stand for what people deploy; every export probes its own cores besides."""


def describe(runtimes: bool = True) -> list[dict[str, Any]]:
    """A row per lowering: name, summary, takes, opset, domains, and with `runtimes` the probe results of each sample core.

    A result is `pass`, or the reason: what the form does not accept, or what the runtime computed wrongly.
    """
    with tempfile.TemporaryDirectory() as folder:
        prover = Prover(Path(folder))
        return [_row(lowering, prover if runtimes else None) for lowering in LOWERINGS.values()]


def _row(lowering: Lowering, prover: Prover | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": lowering.name,
        "summary": lowering.summary,
        "takes": lowering.takes,
        "opset": lowering.opset,
        "domains": list(lowering.domains),
    }
    if prover is not None:
        row["runtimes"] = {name: _proofs(lowering, prover, name) for name in registry.names()}
    return row


def _proofs(lowering: Lowering, prover: Prover, name: str) -> dict[str, str]:
    runtime = registry.get(name)
    availability = runtime.check()
    if not availability.ok:
        return dict.fromkeys(SAMPLES, f"not run: {availability.reason}")
    proofs = {}
    for sample, core in SAMPLES.items():
        refusal = lowering.accepts(core)
        if refusal is None:
            result = prover.prove(lowering, core, runtime, runtime.devices()[0])
            refusal = None if result.passed else result.reason
        proofs[sample] = refusal or "pass"
    return proofs
