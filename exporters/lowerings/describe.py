"""What `edgeattn list lowerings` tells: what each form accepts and whether it is proven on the runtimes here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime
from edgeattn.spec import Causal, SlidingWindow, SoftmaxAttention

SAMPLES = {
    "full": Core(SoftmaxAttention(4, 4, 32), square=True),
    "key padding": Core(SoftmaxAttention(4, 4, 32, mask="key_padding"), square=True),
    "causal": Core(SoftmaxAttention(4, 4, 32, pattern=Causal()), square=True),
    "grouped": Core(SoftmaxAttention(6, 2, 32), square=True),
    "grouped causal": Core(SoftmaxAttention(6, 2, 32, pattern=Causal()), square=True),
    "causal window": Core(SoftmaxAttention(4, 4, 32, pattern=SlidingWindow(15, 0)), square=True),
    "cached": Core(SoftmaxAttention(6, 2, 32, pattern=Causal(alignment="lower_right"), mask="key_padding"), cached=True),
    "softcap": Core(SoftmaxAttention(4, 4, 32, softcap=20.0, mask="key_padding"), square=True),
}
"""Cores that stand for what people deploy; every export probes its own cores besides."""


def describe(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per named lowering: name, summary, takes, opset, domains, and per runtime a verdict for each sample core.

    A verdict is {"status", "reason"}; the status is `pass` (probed here), `refused` (the form cannot express the core),
    `fails` (the runtime computes it wrongly, or not at all) or `not run` (the runtime is not here).
    """
    with tempfile.TemporaryDirectory() as folder:
        prover = Prover(Path(folder))
        return [
            {
                "name": lowering.name,
                "summary": lowering.summary,
                "takes": lowering.takes,
                "opset": lowering.opset,
                "domains": list(lowering.domains),
                "runtimes": {name: _verdicts(lowering, prover, registry.get(name)) for name in registry.deployable()},
            }
            for lowering in map(get, names)
        ]


def _verdicts(lowering: Lowering, prover: Prover, runtime: Runtime) -> dict[str, dict[str, str]]:
    availability = runtime.check()
    if not availability.ok:
        return {sample: _verdict("not run", availability.reason) for sample in SAMPLES}
    device = runtime.devices()[0]
    return {sample: _verdict(*prover.verdict(lowering, core, runtime, device)) for sample, core in SAMPLES.items()}


def _verdict(status: str, reason: str) -> dict[str, str]:
    return {"status": status, "reason": reason}
