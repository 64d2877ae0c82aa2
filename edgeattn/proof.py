"""A flavour's lowerings were proven on the machine that exported it; on another one they are proven again, once.

What passed is remembered in the user's cache, under a key of the machine and the probes' own digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from edgeattn.bundle import Bundle
from edgeattn.errors import BundleError, GateError
from edgeattn.manifest import Flavour, Probe
from edgeattn.probe import CROSS, GRID, environment, run_probe
from edgeattn.runtimes.base import Runtime


def require_proof(bundle: Bundle, flavour: Flavour, runtime: Runtime, device: str) -> None:
    """Run the flavour's probes again where runtime version, CPU or device differ from those of the export.

    Raises:
        GateError: a probe fails, so this machine would compute a lowering of the model wrongly.
        BundleError: the flavour names a probe that the manifest does not describe.
    """
    if not flavour.probes:
        return
    here = environment(runtime, device)
    if flavour.target == f"{runtime.name}:{device}" and here.items() <= flavour.environment.items():
        return
    probes = [_find(bundle, name) for name in flavour.probes]
    note = _note(bundle, probes, runtime, device, here)
    if note is not None and note.exists():
        return
    for probe in probes:
        _prove(bundle, flavour, probe, runtime, device)
    _remember(note)


def _prove(bundle: Bundle, flavour: Flavour, probe: Probe, runtime: Runtime, device: str) -> None:
    result = run_probe(runtime, device, bundle.file(probe.file), probe.spec, square=probe.square)
    if not result.passed:
        raise GateError(
            f"lowering {probe.lowering!r} ({probe.spec.summary()}) of flavour {flavour.target} does not compute attention "
            f"rightly with {runtime.name} {runtime.check().version} on {device} here: {result.reason}. "
            "Export the model on this machine, or load another flavour (`edgeattn inspect` lists them)"
        )


def _find(bundle: Bundle, name: str) -> Probe:
    found = next((probe for probe in bundle.manifest.probes if probe.file == name), None)
    if found is None:
        raise BundleError(f"{bundle.path}: probe {name!r} is not described in the manifest; export the model again")
    return found


def _note(bundle: Bundle, probes: list[Probe], runtime: Runtime, device: str, here: dict[str, str]) -> Path | None:
    """Where a proof of exactly these probes on exactly this machine is noted; None where there is no home to note it in."""
    digests = sorted(bundle.manifest.files[probe.file].sha256 for probe in probes)
    text = json.dumps([GRID, CROSS, runtime.name, device, here, digests], sort_keys=True)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "edgeattn" / "proofs" / hashlib.sha256(text.encode()).hexdigest()


def _remember(note: Path | None) -> None:
    if note is None:
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError:  # a read-only device proves again at each load
        return
