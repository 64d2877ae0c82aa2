"""Open a bundle for running: numpy and the runtime, nothing else.

The flavour made for the runtime and device is used. Only where there is none, the `portable` one is, and
`session.effective.details["flavour"]` says which it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edgeattn.bundle import Bundle, opening
from edgeattn.errors import BundleError, FeedError, GateError, UsageError, unknown
from edgeattn.manifest import Flavour, Manifest
from edgeattn.proof import require_proof
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

Array = NDArray[Any]
BundlePath = str | os.PathLike[str]

CANONICAL = "canonical"
PORTABLE = "portable"


def load(
    bundle: BundlePath | Bundle,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int | None = None,
    flavour: str | None = None,
) -> Session:
    """Load a bundle for running.

    Args:
        bundle: a bundle folder or `.edgeattn` file, or one that is open already.
        runtime: `onnxruntime`, `openvino`, `reference` or the name of an installed plug-in.
        device: a device of that runtime; never replaced by another.
        threads: CPU threads; None means what the process may use (its cgroup's quota).
        flavour: a target of the manifest to load instead of the one made for `runtime:device`.

    Raises:
        BundleError: the bundle is missing, truncated, edited or foreign.
        UsageError: an unknown runtime, device or flavour.
        RuntimeMissingError: the runtime or device is not there.
        GateError: the flavour did not pass parity at export, or a lowering it uses is wrong on this machine.
        RuntimeRunError: the runtime refuses the model.
    """
    engine, _ = registry.parse_target(f"{runtime}:{device}")
    engine.require(device)
    options = LoadOptions(device=device, threads=threads)
    if isinstance(bundle, Bundle):
        return _load(bundle, engine, options, flavour)
    session = None
    try:
        with opening(bundle) as opened:
            session = _load(opened, engine, options, flavour)
    except BundleError:
        if session is not None:
            session.close()
        raise
    return session


def _load(bundle: Bundle, runtime: Runtime, options: LoadOptions, wanted: str | None) -> Session:
    chosen = pick_flavour(bundle, runtime, options.device, wanted)
    _require_parity(bundle, chosen)
    require_proof(bundle, chosen, runtime, options.device)
    return open_session(bundle, chosen, runtime, options)


def pick_flavour(bundle: Bundle, runtime: Runtime, device: str, wanted: str | None = None) -> Flavour:
    """The flavour of `bundle` for a runtime and device: as `wanted`, the one made for it, else `portable`.

    Raises:
        UsageError: there is no such flavour, or neither one for the runtime nor a portable one.
    """
    manifest = bundle.manifest
    targets = [flavour.target for flavour in manifest.flavours]
    if wanted is not None:
        found = manifest.flavour(wanted)
        if found is None:
            raise unknown("flavour", wanted, targets)
        return found
    own = CANONICAL if runtime.canonical else f"{runtime.name}:{device}"
    found = manifest.flavour(own) or manifest.flavour(PORTABLE)
    if found is None:
        raise UsageError(
            f"{bundle.path} has no flavour for {runtime.name}:{device} and no portable one; it has: {', '.join(targets)}. "
            f"Export it with -r {runtime.name}:{device}"
        )
    return found


def open_session(bundle: Bundle, flavour: Flavour, runtime: Runtime, options: LoadOptions) -> Session:
    """A session of one flavour without any gate, for those who are about to check it."""
    inner = runtime.load(bundle.file(flavour.file), options)
    try:
        return BundleSession(inner, bundle.manifest, flavour)
    except BundleError:
        inner.close()
        raise


class BundleSession(Session):
    """A runtime's session with the manifest's names, symbols and size limits."""

    def __init__(self, inner: Session, manifest: Manifest, flavour: Flavour) -> None:
        details = {**inner.effective.details, "flavour": flavour.target, "flavour_precision": flavour.precision}
        super().__init__(manifest.inputs, manifest.outputs, replace(inner.effective, details=details))
        self._inner = inner
        self._limits = manifest.limits
        self._takes = [info.name for info in inner.inputs]
        _require_names(flavour, "takes input", self._takes, {info.name for info in self.inputs})
        _require_names(flavour, "lacks output", [info.name for info in self.outputs], {info.name for info in inner.outputs})

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._check_limits(feeds)
        results = self._inner._run({name: feeds[name] for name in self._takes})
        return {info.name: results[info.name] for info in self.outputs}

    def _close(self) -> None:
        self._inner.close()

    def _check_limits(self, feeds: Mapping[str, Array]) -> None:
        for info in self.inputs:
            for axis, dim in enumerate(info.dims):
                limit = self._limits.get(dim) if isinstance(dim, str) else None
                if limit is not None and feeds[info.name].shape[axis] > limit:
                    raise FeedError(
                        f"input {info.name!r}, axis {axis} ({dim}): got size {feeds[info.name].shape[axis]}, "
                        f"the model takes at most {limit}"
                    )


def _require_names(flavour: Flavour, what: str, names: list[str], known: set[str]) -> None:
    if extra := [name for name in names if name not in known]:
        raise BundleError(f"{flavour.file} {what} {extra[0]!r}, against its manifest; the bundle was edited: export it again")


def _require_parity(bundle: Bundle, flavour: Flavour) -> None:
    if flavour.parity is not None and not flavour.parity.passed:
        raise GateError(
            f"{bundle.path}: flavour {flavour.target} ({flavour.precision}) did not pass parity when it was exported, so it "
            f"gives other results than the PyTorch model; `edgeattn check {bundle.path}` shows where. Load another flavour"
        )
