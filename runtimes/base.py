"""The contract every runtime keeps: `Runtime.check`, `Runtime.load`, `Session.run`.

A template method: the base validates feeds once, with the same messages for every runtime; a subclass writes
`check`, `devices`, `_load` and `_run`.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgeattn.derived import derived_size, is_derived
from edgeattn.errors import FeedError, RuntimeMissingError, RuntimeRunError, UsageError, unknown
from edgeattn.manifest import PAST, TensorInfo

if TYPE_CHECKING:
    from edgeattn.runtimes.carrying import Carried

Array = NDArray[Any]

CUSTOM = "custom operators"
"""Key of `Effective.details`: how the operators that a model defines itself are run."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a runtime can be used here, and if not, why and what to install."""

    ok: bool
    reason: str = ""
    how_to_install: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller may ask of a session.

    `threads` None means the cgroup quota (see `default_threads`). `spin` False stops worker threads from busy-waiting
    between runs: a little slower alone, necessary where several sessions are timed in turn.

    `custom_ops` are native libraries with kernels for custom operators, in ONNX Runtime's form; their code runs in this
    process. `extensions` are the same for OpenVINO: `openvino.frontend.onnx.ConversionExtension`s, or paths of extension
    libraries. Nothing but these options ever names a library: no bundle can.
    """

    device: str = "cpu"
    threads: int | None = None
    spin: bool = True
    custom_ops: tuple[str, ...] = ()
    extensions: tuple[object, ...] = ()
    cache: str = ""
    """How the file keeps a decoder's keys and values (`edgeattn.manifest.Flavour.cache`)."""
    activations: str = "fp32"
    """The type that products may round their inputs to (`edgeattn.manifest.Quantized`)."""
    kv: str = "fp32"
    """The type that a cache which the runtime keeps itself may be rounded to (`edgeattn.manifest.Quantized`)."""
    quiet: bool = False
    """Keep the runtime's own messages about runs that fail off the terminal: they are raised all the same."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What a session really uses; printed beside every number."""

    runtime: str
    version: str
    device: str
    threads: int
    precision: str
    kv_precision: str
    details: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """`onnxruntime 1.31.1 cpu, 2 threads, fp32 (KV fp32)`, and how custom operators run where there are any."""
        count = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        custom = f", {self.details[CUSTOM]}" if CUSTOM in self.details else ""
        return f"{self.runtime} {self.version} {self.device}, {count}, {self.precision} (KV {self.kv_precision}){custom}"


class Session(abc.ABC):
    """A loaded model. A context manager; `close` frees what the runtime holds."""

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.effective = effective
        self._closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. `feeds` maps every input's name to an array of its dtype and rank; the result maps every output.

        Raises:
            FeedError: a name, dtype, rank, size or NaN that does not fit, found before the runtime sees it.
            RuntimeRunError: the runtime itself failed.
        """
        if self._closed:
            raise UsageError("the session is closed; load the bundle again")
        return self._run(validate_feeds(self.inputs, feeds))

    def carrying(self, pairs: Mapping[str, str], start: Mapping[str, Array]) -> Carried[Any]:
        """Runs that hand the outputs of `pairs` on to its inputs, which `start` with these arrays."""
        from edgeattn.runtimes.carrying import CarriedArrays

        return CarriedArrays(self, pairs, start)

    def close(self) -> None:
        """Free the model. The session cannot run again; closing it again does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abc.abstractmethod
    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run validated feeds; every output by name."""

    def _close(self) -> None:  # noqa: B027 - optional: most runtimes free on garbage collection
        """Free what the runtime holds."""


class Runtime(abc.ABC):
    """An engine. Third parties register a subclass through the entry-point group `edgeattn.runtimes`."""

    name: ClassVar[str]
    """As typed on the command line: `onnxruntime`."""
    canonical: ClassVar[bool] = False
    """True for a runtime that runs the canonical model instead of a lowered one."""
    functions: ClassVar[bool] = False
    """True for a runtime that runs a model's own functions; for any other, custom operators are written out as their bodies."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Which of the options `custom_ops` and `extensions` mean something to it."""
    stateful: ClassVar[frozenset[str]] = frozenset()
    """The devices on which it keeps a decoder's cache itself (`edgeattn.manifest.STATEFUL`)."""

    @abc.abstractmethod
    def check(self) -> Availability:
        """Can this runtime be used here? Never raises."""

    @abc.abstractmethod
    def devices(self) -> tuple[str, ...]:
        """The devices present here, by the names that `known_devices` lists."""

    @property
    @abc.abstractmethod
    def known_devices(self) -> tuple[str, ...]:
        """Every device name this runtime understands, present or not."""

    def load(self, path: str | os.PathLike[str], options: LoadOptions | None = None) -> Session:
        """Load a model file.

        Raises:
            RuntimeMissingError: the runtime, or the device asked for, is not there; says what is.
            UsageError: an unknown device name, a thread count below 1, an option that this runtime does not take, or no
                file at `path`.
            RuntimeRunError: the runtime refuses the model.
        """
        options = options or LoadOptions()
        self.require(options.device)
        resolve_threads(options)
        self._check_taken(options)
        if not Path(path).is_file():
            raise UsageError(f"there is no model file {os.fspath(path)!r}; give the path of a file inside a bundle")
        return self._load(Path(path), options)

    def require(self, device: str) -> None:
        """Raise RuntimeMissingError, or UsageError for an unknown device name, unless `device` can be used here."""
        availability = self.check()
        if not availability.ok:
            fix = f"; fix: {availability.how_to_install}" if availability.how_to_install else ""
            raise RuntimeMissingError(f"runtime {self.name!r} cannot be used here: {availability.reason}{fix}")
        if device not in self.known_devices:
            raise unknown(f"device of runtime {self.name!r}", device, self.known_devices)
        if device not in self.devices():
            raise RuntimeMissingError(
                f"{self.name} {availability.version} has no device {device!r} here; it has: {', '.join(self.devices())}. "
                "edgeattn does not fall back to another device: ask for one of these, or install a build with it"
            )

    def _check_taken(self, options: LoadOptions) -> None:
        for name in ("custom_ops", "extensions"):
            if getattr(options, name) and name not in self.takes:
                raise UsageError(
                    f"runtime {self.name!r} takes no {name}; name the runtime that they are for "
                    "(custom_ops: onnxruntime, extensions: openvino), or leave them out"
                )

    @abc.abstractmethod
    def _load(self, path: Path, options: LoadOptions) -> Session:
        """Load on a device that is known to be there."""


def default_threads() -> int:
    """CPU threads this process may use: its affinity, or the cgroup quota where that is lower."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, _cgroup_quota() or count))


def resolve_threads(options: LoadOptions) -> int:
    """The thread count to pin. Raises UsageError for a count below 1."""
    if options.threads is None:
        return default_threads()
    if not isinstance(options.threads, int) or isinstance(options.threads, bool) or options.threads < 1:
        raise UsageError(f"threads must be a whole number >= 1, got {options.threads!r}")
    return options.threads


def library_paths(libraries: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Absolute paths of native libraries: a bare name would be looked for wherever the system keeps its own.

    Raises:
        UsageError: one is no file, or all of them were given as one text.
    """
    if isinstance(libraries, str | os.PathLike):
        raise UsageError(f"custom_ops is a list of files, got {os.fspath(libraries)!r}; write [{os.fspath(libraries)!r}]")
    paths = [Path(library) for library in libraries]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"there is no library {os.fspath(path)!r}; give the path of the file that was built")
    return tuple(os.path.abspath(path) for path in paths)


def validate_feeds(inputs: Sequence[TensorInfo], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Feeds as C-contiguous arrays, after checking names, dtypes, ranks, sizes (one size per symbol) and NaN."""
    names = [info.name for info in inputs]
    for name in feeds:
        if name not in names:
            raise FeedError(f"{unknown('input', name, names)}")
    if missing := [name for name in names if name not in feeds]:
        raise FeedError(f"input {missing[0]!r} is missing; the model needs {', '.join(names)}")
    sizes: dict[str, tuple[int, str]] = {}
    checked = {}
    for info in inputs:
        array = _as_array(info, feeds[info.name])
        _check_array(info, array, sizes)
        checked[info.name] = np.ascontiguousarray(array) if array.ndim else array
    _check_derived(inputs, {dim: size for dim, (size, _) in sizes.items()})
    return checked


def _as_array(info: TensorInfo, value: Any) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal length, a tensor on another device
        raise FeedError(f"input {info.name!r}: got a {type(value).__name__} that is no array: {error}") from error


def _check_array(info: TensorInfo, array: Array, sizes: dict[str, tuple[int, str]]) -> None:
    name = info.name
    if array.dtype != np.dtype(info.dtype):
        raise FeedError(
            f"input {name!r}: got {_got(array)}, expected {_expected(info)}; convert it with .astype({info.dtype!r})"
        )
    if array.ndim != len(info.dims):
        raise FeedError(
            f"input {name!r}: got rank {array.ndim} ({_got(array)}), expected rank {len(info.dims)} ({_expected(info)})"
        )
    for axis, (size, dim) in enumerate(zip(array.shape, info.dims, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                raise FeedError(
                    f"input {name!r}, axis {axis}: got size {size} ({_got(array)}), expected {dim} ({_expected(info)})"
                )
        elif size < 1 and dim != PAST:
            raise FeedError(f"input {name!r}, axis {axis} ({dim}): got size 0 ({_got(array)}), expected at least 1")
        elif sizes.setdefault(dim, (size, name))[0] != size:
            other = sizes[dim]
            raise FeedError(f"input {name!r}: {dim} is {size}, but {other[0]} in input {other[1]!r}; make them equal")
    if array.dtype.kind == "f" and np.isnan(array).any():
        where = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
        raise FeedError(f"input {name!r} holds NaN (first at {where}); every output it reaches would be NaN")


def _got(array: Array) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _expected(info: TensorInfo) -> str:
    return f"{info.dtype}[{', '.join(map(str, info.dims))}]"


def _check_derived(inputs: Sequence[TensorInfo], sizes: Mapping[str, int]) -> None:
    """A dimension such as `sequence + past` has to be that: a runtime would stretch a mask of length 1 without a word."""
    for info in inputs:
        for axis, dim in enumerate(info.dims):
            expected = derived_size(dim, sizes) if isinstance(dim, str) and is_derived(dim) else None
            if isinstance(dim, str) and expected not in (None, sizes.get(dim, expected)):
                raise FeedError(
                    f"input {info.name!r}, axis {axis}: got size {sizes[dim]}, expected {dim} = {expected}; make it that long"
                )


def tensor_info(name: str, dtype: str, dims: Sequence[int | str | None]) -> TensorInfo:
    """A TensorInfo; a dimension without a size or name becomes `<name>_<axis>`, so that it never equals another."""
    return TensorInfo(name, dtype, tuple(dim if dim or dim == 0 else f"{name}_{axis}" for axis, dim in enumerate(dims)))


def wrap_failure(runtime: str, action: str, error: Exception) -> RuntimeRunError:
    """A runtime's own exception with its first line kept and the rest left to --debug."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RuntimeRunError(f"{runtime} failed to {action}: {text}")


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole CPUs that the cgroup allows, at least 1; None without a quota. Version 2 first, then version 1."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / name).read_text() for name in names).split()
            return None if quota in ("max", "-1") else max(1, int(quota) // int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
