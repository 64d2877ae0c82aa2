"""manifest.json as types: what a bundle holds, for which runtime, and what was proven about it."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from edgeattn import spec as specs
from edgeattn.errors import BundleError, SpecError
from edgeattn.spec import AttentionSpec

FORMAT = 1
"""Version of the bundle format. A reader refuses any other."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: name, numpy dtype, and per axis a fixed size or the name of a dynamic dimension."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class OutputInfo(TensorInfo):
    """An output with its tolerance class (see `edgeattn.tolerance`)."""

    tolerance: str = "activation"


@dataclass(frozen=True, slots=True)
class Site:
    """One attention core found in the model.

    `name` is the canonical node's name, `module` the path of the PyTorch module it came from.
    """

    name: str
    module: str
    function: str
    spec: AttentionSpec


@dataclass(frozen=True, slots=True)
class ParityResult:
    """What the export gate measured for a flavour: the worst over all cases, per output."""

    passed: bool
    cases: int
    max_abs_error: dict[str, float]
    sqnr_db: dict[str, float]


@dataclass(frozen=True, slots=True)
class Flavour:
    """One deployable form of the model.

    `target` is the runtime and device it was made and proven for (`onnxruntime:cpu`), or `portable` / `canonical`.
    `domains` are the operator domains used with their opset versions. `lowerings` maps a site's name to its lowering.
    """

    target: str
    precision: str
    file: str
    domains: dict[str, int]
    lowerings: dict[str, str]
    reasons: dict[str, str]
    parity: ParityResult | None = None
    environment: dict[str, str] = field(default_factory=dict)
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Inputs and PyTorch's outputs at one choice of dynamic sizes; `file` holds `in.<name>` and `out.<name>`.

    An output of more than `edgeattn.golden.LIMIT` elements is stored as every `strides[name]`-th element of its
    flattened form.
    """

    file: str
    sizes: dict[str, int]
    strides: dict[str, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """A one-node model of exactly the form a lowering writes, to be proven again on a device that differs."""

    file: str
    lowering: str
    spec: AttentionSpec
    square: bool = False
    """True for a form that takes S == T only, and is probed with such sizes only."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Digest and size of a file of the bundle, both verified before anything reads it."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a reader may rely on; see the fields' own types."""

    edgeattn: str
    source: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[OutputInfo, ...]
    sites: tuple[Site, ...]
    unraised: tuple[str, ...]
    flavours: tuple[Flavour, ...]
    golden: tuple[GoldenCase, ...]
    probes: tuple[Probe, ...]
    files: dict[str, FileEntry]
    padding: str | None = None
    """Name of the input that marks padding (B, T), or None."""
    limits: dict[str, int] = field(default_factory=dict)
    """Largest size of a dynamic dimension, where it has one."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """How to make feeds from text; empty where the model takes no text."""
    provenance: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def flavour(self, target: str) -> Flavour | None:
        """The flavour made for `target`, if there is one."""
        return next((f for f in self.flavours if f.target == target), None)


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text."""
    return json.dumps(_encode(manifest), indent=1) + "\n"


def loads(text: str) -> Manifest:
    """Read a manifest; every field's type is checked.

    Raises:
        BundleError: not JSON, another format version, a missing or unknown field, or a value of the wrong type.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON: {error}") from error
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        raise BundleError(
            f"manifest.json has format {version!r}, this edgeattn reads format {FORMAT}; "
            "export the model again, or install the edgeattn that wrote the bundle"
        )
    manifest: Manifest = _decode(Manifest, data, "manifest")
    return manifest


def _encode(value: Any) -> Any:
    if isinstance(value, AttentionSpec):
        return specs.to_dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decode(kind: Any, data: Any, where: str) -> Any:
    """`data` as `kind`, which is a dataclass, tuple[X, ...], dict[str, X], a union or a plain JSON type."""
    if kind is Any:
        return data
    if kind is AttentionSpec:
        try:
            return specs.from_dict(data)
        except SpecError as error:
            raise BundleError(f"{where}: {error}") from error
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type[Any]", kind), data, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(data, list):
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict and isinstance(data, dict):
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if origin is types.UnionType:
        return _decode_union(args, data, where)
    if kind is float and isinstance(data, int) and not isinstance(data, bool) and abs(data) <= sys.float_info.max:
        return float(data)
    if isinstance(kind, type) and isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    raise BundleError(f"{where}: expected {kind}, got {data!r:.80}")


def _decode_union(members: tuple[Any, ...], data: Any, where: str) -> Any:
    for member in members:
        if member is type(None):
            if data is None:
                return None
            continue
        try:
            return _decode(member, data, where)
        except BundleError:
            if member is members[-1] or (dataclasses.is_dataclass(member) and data is not None):
                raise
    raise BundleError(f"{where}: got {data!r:.80}")


def _decode_dataclass(kind: type[_T], data: Any, where: str) -> _T:
    if not isinstance(data, dict):
        raise BundleError(f"{where}: expected an object, got {data!r:.80}")
    hints = _type_hints(typing.cast("type", kind))
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if extra := sorted(set(data) - set(known)):
        raise BundleError(f"{where}: unknown field {extra[0]!r}")
    required = [n for n, f in known.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in data]:
        raise BundleError(f"{where}: missing field {missing[0]!r}")
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()})


@cache
def _type_hints(kind: type) -> dict[str, Any]:
    """Evaluating annotations that are text takes longer than reading the values."""
    return typing.get_type_hints(kind)
