"""The flavour of a decoder that keeps its cache itself, where every site of it can be so and its gate passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgeattn.errors import RuntimeRunError
from edgeattn.exporters.choose import Choice
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.stateful.model import FORM, Stateful
from edgeattn.exporters.stateful.probe import prove
from edgeattn.openvino_ir import foreign_layers
from edgeattn.runtimes.base import Runtime

WHY = "fused with a cache that the runtime keeps, and a step copies nothing but what is new: fastest measured"
Gate = Callable[[dict[str, int], dict[str, Choice]], FlavourReport]
"""Domains and choices -> the flavour as its gate found it."""


def stateful_flavour(
    model: Stateful, path: Path, folder: Path, runtime: Runtime, device: str, gate: Gate
) -> FlavourReport | str:
    """Written to `path` and proven, or why not; then nothing of it is left. Probes go into `folder`."""
    sites = find_sites(model.canonical)
    reason = model.refusal() or prove((site.core(model.limits) for site in sites), folder, runtime, device)
    if reason:
        return reason
    before = model.weights.stat().st_size if model.weights.exists() else 0
    row, reason = _written(model, path, lambda domains: gate(domains, {site.name: Choice(FORM, WHY) for site in sites}))
    if row is not None:
        return row
    path.unlink(missing_ok=True)
    os.truncate(model.weights, before)
    return reason


def _written(model: Stateful, path: Path, gate: Callable[[dict[str, int]], FlavourReport]) -> tuple[FlavourReport | None, str]:
    try:
        domains = model.write(path)
    except RuntimeRunError as error:
        return None, str(error)
    if foreign := foreign_layers(path):
        return None, f"it needs {foreign[0]}, which is no layer that bundles may use"
    row = gate(domains)
    return (None, row.failure) if row.failure else (row, "")
