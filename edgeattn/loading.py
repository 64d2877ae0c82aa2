"""Open a bundle for running: numpy and the runtime, nothing else.

The flavour made for the runtime and device is used. Only where there is none, the `portable` one is, and
`session.effective.details["flavour"]` says which it was. A bundle exported for fixed sizes has a flavour for each choice
of them; all are loaded, and a run takes the smallest that holds its feeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edgeattn.buckets import cut, no_bucket, pad, sizes_of, smallest
from edgeattn.bundle import Bundle, opening
from edgeattn.errors import BundleError, FeedError, GateError, UsageError, unknown
from edgeattn.manifest import Flavour, Manifest, Quantized, describe_sizes
from edgeattn.proof import require_proof
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session, library_paths
from edgeattn.runtimes.carrying import Carried

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
    custom_ops: Iterable[str | os.PathLike[str]] = (),
    extensions: Iterable[object] = (),
    precision: str | None = None,
) -> BundleSession:
    """Load a bundle for running.

    Args:
        bundle: a bundle folder or `.edgeattn` file, or one that is open already.
        runtime: `onnxruntime`, `openvino`, `reference` or the name of an installed plug-in.
        device: a device of that runtime; never replaced by another.
        threads: CPU threads; None means what the process may use (its cgroup's quota).
        flavour: a target of the manifest to load instead of the one made for `runtime:device`.
        custom_ops: native libraries for ONNX Runtime with kernels for the model's custom operators. Their code runs in this
            process, so name only what you trust; a bundle by itself never loads one. Without a kernel, an operator's body
            in the file is run, and `session.effective.details["custom operators"]` says which it was.
        extensions: the same for OpenVINO: `openvino.frontend.onnx.ConversionExtension`s or paths of extension libraries. The
            flavour made for openvino holds bodies only, so load one with custom operators beside it, as `flavour`.
        precision: `fp32`, `int8`, ... where the bundle has several of them; by default the one that its export found best.

    Raises:
        BundleError: the bundle is missing, truncated, edited or foreign.
        UsageError: an unknown runtime, device, flavour or precision; a library that is not there, or that has no kernel for the model.
        RuntimeMissingError: the runtime or device is not there.
        GateError: the flavour did not pass parity at export, or a lowering it uses is wrong on this machine.
        RuntimeRunError: the runtime refuses the model.
    """
    engine, _ = registry.parse_target(f"{runtime}:{device}")
    engine.require(device)
    options = LoadOptions(device=device, threads=threads, custom_ops=library_paths(custom_ops), extensions=tuple(extensions))
    if isinstance(bundle, Bundle):
        return _load(bundle, engine, options, flavour, precision)
    session = None
    try:
        with opening(bundle) as opened:
            session = _load(opened, engine, options, flavour, precision)
    except BundleError:
        if session is not None:
            session.close()
        raise
    return session


def _load(bundle: Bundle, runtime: Runtime, options: LoadOptions, wanted: str | None, precision: str | None) -> BundleSession:
    chosen = pick_flavours(bundle, runtime, options.device, wanted, precision)
    for flavour in chosen:
        _require_parity(bundle, flavour)
        require_proof(bundle, flavour, runtime, options.device)
    return open_session(bundle, chosen, runtime, options)


def pick_flavours(
    bundle: Bundle, runtime: Runtime, device: str, wanted: str | None = None, precision: str | None = None
) -> tuple[Flavour, ...]:
    """The flavour of `bundle` for a runtime and device: as `wanted`, the one made for it, else `portable`; where sizes are
    fixed, one for each choice of them.

    Raises:
        UsageError: there is no such flavour, or neither one for the runtime nor a portable one, or not in this precision.
    """
    manifest = bundle.manifest
    targets = list(dict.fromkeys(flavour.target for flavour in manifest.flavours))
    if wanted is not None and wanted not in targets:
        raise unknown("flavour", wanted, targets)
    own = CANONICAL if runtime.canonical else f"{runtime.name}:{device}"
    target = wanted or (own if own in targets else PORTABLE)
    found = manifest.flavours_for(target, precision)
    if not found and target in targets:
        raise unknown(f"precision of {target}", str(precision), manifest.precisions(target))
    if not found:
        raise UsageError(
            f"{bundle.path} has no flavour for {runtime.name}:{device} and no portable one; it has: {', '.join(targets)}. "
            f"Export it with -r {runtime.name}:{device}"
        )
    return found


def open_session(bundle: Bundle, flavours: Sequence[Flavour], runtime: Runtime, options: LoadOptions) -> BundleSession:
    """A session of what `pick_flavours` gave, without any gate, for those who are about to check it."""
    with ExitStack() as opened:
        inner = [
            opened.enter_context(runtime.load(bundle.file(flavour.file), flavour_options(options, flavour)))
            for flavour in flavours
        ]
        session = BundleSession(inner, bundle.manifest, flavours)
        opened.pop_all()
    return session


def flavour_options(options: LoadOptions, flavour: Flavour) -> LoadOptions:
    """With what the flavour itself asks of its runtime."""
    smaller = flavour.quantized
    if smaller is None:
        return replace(options, cache=flavour.cache)
    return replace(options, cache=flavour.cache, activations=smaller.activations, kv=smaller.kv)


class BundleSession(Session):
    """A runtime's session with the manifest's names, symbols and size limits; where sizes are fixed, a session for each
    choice of them, of which each run takes the smallest that holds its feeds."""

    def __init__(self, inner: Sequence[Session], manifest: Manifest, flavours: Sequence[Flavour]) -> None:
        first = flavours[0]
        details = {**inner[0].effective.details, "flavour": first.target, "flavour_precision": first.precision}
        self.buckets = tuple(flavour.sizes for flavour in flavours if flavour.sizes)
        """The fixed sizes, smallest or not, in the order of the manifest; none where any size runs."""
        if self.buckets:
            details["sizes"] = "; ".join(map(describe_sizes, self.buckets))
        effective = replace(inner[0].effective, details=details)
        if first.quantized is not None:
            effective = replace(effective, precision=_described(first.quantized))
        super().__init__(manifest.inputs, manifest.outputs, effective)
        self._inner = tuple(inner)
        self._manifest = manifest
        self._padding = next((info for info in manifest.inputs if info.name == manifest.padding), None)
        for flavour, session in zip(flavours, inner, strict=True):
            _require_sizes(flavour, session, manifest, fixed=bool(self.buckets))
            takes = [info.name for info in session.inputs]
            _require_names(flavour, "takes input", takes, {info.name for info in self.inputs})
            _require_names(
                flavour, "lacks output", [info.name for info in self.outputs], {info.name for info in session.outputs}
            )

    def bucket(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """The fixed sizes that `feeds` run at; empty where any size runs as it is. Raises FeedError where none holds them."""
        return dict(self.buckets[self._index(sizes_of(self.inputs, feeds))]) if self.buckets else {}

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        """As `Session.carrying`, by the runtime's own session. Raises UsageError where sizes are fixed."""
        if self.buckets:
            raise UsageError("a cache grows, and the bundle is for fixed sizes; export it without --static-shapes")
        return self._inner[0].carrying(pairs, start)

    def _index(self, asked: Mapping[str, int]) -> int:
        index = smallest(self.buckets, asked, self._manifest.pads)
        if index is None:
            raise no_bucket(self.buckets, asked, self._manifest.pads)
        return index

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._check_limits(feeds)
        if not self.buckets:
            return self._run_inner(self._inner[0], feeds)
        asked = sizes_of(self.inputs, feeds)
        index = self._index(asked)
        padded = pad(feeds, self.inputs, self.buckets[index], self._padding)
        return cut(self._run_inner(self._inner[index], padded), self.outputs, asked)

    def _run_inner(self, inner: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = inner._run({info.name: feeds[info.name] for info in inner.inputs})
        return {info.name: results[info.name] for info in self.outputs}

    def _close(self) -> None:
        for inner in self._inner:
            inner.close()

    def _check_limits(self, feeds: Mapping[str, Array]) -> None:
        for info in self.inputs:
            for axis, dim in enumerate(info.dims):
                limit = self._manifest.limits.get(dim) if isinstance(dim, str) else None
                if limit is not None and feeds[info.name].shape[axis] > limit:
                    raise FeedError(
                        f"input {info.name!r}, axis {axis} ({dim}): got size {feeds[info.name].shape[axis]}, "
                        f"the model takes at most {limit}"
                    )


def _described(quantized: Quantized) -> str:
    """`int8-static x34 + int8 x4, inputs in int8`: what is computed, layer by layer, and what products round their inputs to."""
    alike = quantized.token == quantized.kinds
    token = f"; a token {'the same' if alike else _counted(quantized.token)}" if quantized.token else ""
    return f"{_counted(quantized.kinds)}{token}, inputs in {quantized.activations}"


def _counted(kinds: Mapping[str, int]) -> str:
    return " + ".join(f"{kind} x{count}" for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]))


def _require_sizes(flavour: Flavour, inner: Session, manifest: Manifest, fixed: bool) -> None:
    """A flavour of fixed sizes has one for every dynamic dimension that has a name, and its file has the same."""
    if not fixed:
        return
    known = {info.name: info.dims for info in manifest.inputs}
    for info in inner.inputs:
        pairs = zip(known.get(info.name, info.dims), info.dims, strict=False)
        dims = tuple(_fixed(flavour.sizes, dim, own) for dim, own in pairs)
        if dims != info.dims:
            raise BundleError(
                f"{flavour.file} takes {info.name!r} of shape {list(info.dims)}, its manifest says {list(dims)}; "
                "the bundle was edited: export it again"
            )


def _fixed(sizes: Mapping[str, int], dim: int | str, own: int | str) -> int | str | None:
    """What a dimension of the manifest has to be in a file; one that is computed from others is what the file says."""
    if isinstance(dim, int):
        return dim
    return sizes.get(dim) if dim.isidentifier() else own


def _require_names(flavour: Flavour, what: str, names: list[str], known: set[str]) -> None:
    if extra := [name for name in names if name not in known]:
        raise BundleError(f"{flavour.file} {what} {extra[0]!r}, against its manifest; the bundle was edited: export it again")


def _require_parity(bundle: Bundle, flavour: Flavour) -> None:
    """Of a flavour in smaller numbers no parity is asked: its scores stand in the manifest."""
    if flavour.parity is not None and not flavour.parity.passed:
        raise GateError(
            f"{bundle.path}: flavour {flavour.target} ({flavour.precision}) did not pass parity when it was exported, so it "
            f"gives other results than the PyTorch model; `edgeattn check {bundle.path}` shows where. Load another flavour"
        )
