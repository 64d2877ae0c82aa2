"""A flavour's lowerings were proven on the machine that exported it; on another one they are proven again, once.

What passed is noted, under the machine and the probes' own digests.
"""

from __future__ import annotations

from typing import Any

from edgeattn import notes
from edgeattn.bundle import Bundle
from edgeattn.errors import BundleError, GateError
from edgeattn.manifest import Flavour, Probe
from edgeattn.probe import BEHIND, CROSS, GRID, MAX_BATCH, MAX_LENGTH, Size, environment, run_probe
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
    proof = _subject(bundle, probes, runtime, device, here)
    if notes.known("proofs", proof):
        return
    for probe in probes:
        _prove(bundle, flavour, probe, runtime, device)
    notes.remember("proofs", proof)


def _prove(bundle: Bundle, flavour: Flavour, probe: Probe, runtime: Runtime, device: str) -> None:
    sizes = [_size(bundle, probe)] if probe.size else None
    result = run_probe(runtime, device, bundle.file(probe.file), probe.spec, sizes, probe.square, probe.cached)
    if not result.passed:
        raise GateError(
            f"lowering {probe.lowering!r} ({probe.spec.summary()}) of flavour {flavour.target} does not compute attention "
            f"rightly with {runtime.name} {runtime.check().version} on {device} here: {result.reason}. "
            "Export the model on this machine, or load another flavour (`edgeattn inspect` lists them)"
        )


def _size(bundle: Bundle, probe: Probe) -> Size:
    batch, queries, keys = probe.size if len(probe.size) == 3 else (0, 0, 0)
    if not (0 < batch <= MAX_BATCH and 0 < queries <= MAX_LENGTH and 0 < keys <= MAX_LENGTH):
        raise BundleError(
            f"{bundle.path}: probe {probe.file!r} has the size {list(probe.size)}, expected batch, queries and keys of at most "
            f"{MAX_BATCH}, {MAX_LENGTH} and {MAX_LENGTH}; export the model again"
        )
    return batch, queries, keys


def _find(bundle: Bundle, name: str) -> Probe:
    found = next((probe for probe in bundle.manifest.probes if probe.file == name), None)
    if found is None:
        raise BundleError(f"{bundle.path}: probe {name!r} is not described in the manifest; export the model again")
    return found


def _subject(bundle: Bundle, probes: list[Probe], runtime: Runtime, device: str, here: dict[str, str]) -> list[Any]:
    """Exactly these probes, with these cases, on exactly this machine."""
    digests = sorted(bundle.manifest.files[probe.file].sha256 for probe in probes)
    return [GRID, CROSS, BEHIND, runtime.name, device, here, digests]
