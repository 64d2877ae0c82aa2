"""manifest.json as types: what a bundle holds, for which runtime, and what was proven about it."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from edgeattn import spec as specs
from edgeattn.errors import BundleError, SpecError
from edgeattn.fields import WHERE_SET
from edgeattn.modalities import Preprocessing
from edgeattn.spec import AttentionSpec

FORMAT = 1
"""Version of the bundle format. A reader refuses any other."""

_T = TypeVar("_T")


SHARED, STATEFUL = "shared", "stateful"
"""How a decoder's file may keep its cache, see `Flavour.cache`."""
FP32 = "fp32"
"""The precision of a flavour whose numbers are as the model has them."""
TOKENS, KEEP, LOGITS = "input_ids", "logits_to_keep", "logits"
"""A decoder's new tokens (B, S), those of them whose logits come out (N,), and these (B, N, V)."""
PAST = "past"
"""The dimension of a cache that counts the positions in it: the one dimension that may be 0."""
ENCODER, ENCODER_MASK = "encoder", "encoder_attention_mask"
"""The part of an encoder-decoder's bundle that runs once, and the decoder's input that marks its padding (B, T)."""


def past_names(layers: int, of: str = "") -> list[str]:
    """The cache as inputs: the keys and the values of each layer, (B, K, P, D). An encoder-decoder has two: `of` the
    `decoder` itself, and `of` what its `encoder` read, (B, K, T, D)."""
    return [f"past_key_values.{i}.{part}" for i in range(layers) for part in _parts(of)]


def present_names(layers: int, of: str = "") -> list[str]:
    """The cache as outputs, in the same order, (B, K, P + S, D); `of` an encoder (B, K, T, D)."""
    return [f"present.{i}.{part}" for i in range(layers) for part in _parts(of)]


def past_state_names(layers: int) -> list[str]:
    """What a recurrence keeps instead, as inputs: of each layer the last inputs of its convolution, (B, C, K), and its state,
    (B, C, N) or (B, H, P, N). Zeros where nothing was read."""
    return [f"past_{kind}.{i}" for i in range(layers) for kind in _STATES]


def present_state_names(layers: int) -> list[str]:
    """The states as outputs, in the same order and of the same shapes."""
    return [f"present_{kind}.{i}" for i in range(layers) for kind in _STATES]


def state_layers(names: Iterable[str]) -> int:
    """Layers whose states are among a model's inputs; 0 where it keeps none."""
    given = set(names)
    return len(given.intersection(past_state_names(len(given)))) // len(_STATES)


_STATES = ("conv", "ssm")


def _parts(of: str) -> tuple[str, str]:
    return (f"{of}.key", f"{of}.value") if of else ("key", "value")


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
class Tried:
    """One way that a search tried: `kinds`, `kv` and `token` as in `Quantized`, `scores` on the search's own inputs, `size` in bytes, `time` over
    full precision."""

    kinds: dict[str, int]
    scores: dict[str, float]
    size: int
    time: dict[str, float]
    kv: str = field(default=FP32, metadata=WHERE_SET)
    token: dict[str, int] = field(default_factory=dict, metadata=WHERE_SET)


@dataclass(frozen=True, slots=True)
class Quantized:
    """How the numbers of a flavour were made smaller, and what the export measured on inputs that nothing before had seen.

    `kinds`: how many layers are written in each way, `fp32` those left as they were. `activations`: the type that products
    round their inputs to. `scores` on `samples` inputs (tokens of a text); `bounds` are what the bundle's own exam has to keep
    (see `edgeattn.exams`). `time`: `ratio` of a run's time to that at full precision, between `low` and `high` 95 times in 100, and its median in
    `seconds`; of a language model that of one token.
    `tried` is the whole table that it was chosen from. `kv`: the type that a cache which the runtime keeps is kept in. `token`: the
    kinds again where a single token has a graph of its own, `kinds` being those of everything else.
    """

    kinds: dict[str, int]
    activations: str
    samples: int
    scores: dict[str, float]
    bounds: dict[str, float]
    time: dict[str, float]
    tried: tuple[Tried, ...]
    kv: str = field(default=FP32, metadata=WHERE_SET)
    token: dict[str, int] = field(default_factory=dict, metadata=WHERE_SET)


@dataclass(frozen=True, slots=True)
class Flavour:
    """One deployable form of the model.

    `target` is the runtime and device it was made and proven for (`onnxruntime:cpu`), or `portable` / `canonical`.
    `domains` are the operator domains used with their opset versions. `lowerings` maps a site's name to its lowering.
    `sizes` are the literal sizes of the dynamic dimensions it was written for; empty where it takes any. A target whose
    sizes are fixed may have several flavours, one for each choice of them. `cache` is how a decoder's file keeps its keys and
    values: `""` takes them as inputs and gives them back longer, `shared` does the same and may write into the buffer
    that it reads, `stateful` keeps them itself.
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
    sizes: dict[str, int] = field(default_factory=dict, metadata=WHERE_SET)
    cache: str = field(default="", metadata=WHERE_SET)
    quantized: Quantized | None = field(default=None, metadata=WHERE_SET)
    """None at full precision."""

    @property
    def label(self) -> str:
        """`onnxruntime:cpu`, followed by the sizes where they are fixed, and by the precision where it is not fp32."""
        words = [self.target, describe_sizes(self.sizes), "" if self.precision == FP32 else self.precision]
        return " ".join(filter(None, words))


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
    cached: bool = field(default=False, metadata=WHERE_SET)
    """True for a form that takes the first T - S keys and values for a cache."""
    size: tuple[int, ...] = field(default=(), metadata=WHERE_SET)
    """(B, S, T) where the form is written for these alone; empty where it takes any."""


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
    pads: tuple[str, ...] = field(default=(), metadata=WHERE_SET)
    """Dynamic dimensions in which feeds may be padded up to the fixed sizes of a flavour."""
    decoding: GoldenCase | None = field(default=None, metadata=WHERE_SET)
    """A text and what PyTorch says of it without a cache (see `edgeattn.decoding.evidence`); None where there is no cache."""
    preprocessing: Preprocessing | None = field(default=None, metadata=WHERE_SET)
    """How to make feeds from images and sounds (see `edgeattn.preprocess`); None where the model takes neither."""
    exam: GoldenCase | None = field(default=None, metadata=WHERE_SET)
    """What flavours of smaller numbers are held to (see `edgeattn.exams`); None where there are none."""
    parts: tuple[str, ...] = field(default=(), metadata=WHERE_SET)
    """Models beside this one, each with a manifest of its own: `encoder`, where this one is the decoder."""

    def flavour(self, target: str) -> Flavour | None:
        """The flavour made for `target`, the first of them where its sizes are fixed, if there is one."""
        return next(iter(self.flavours_for(target)), None)

    def flavours_for(self, target: str, precision: str | None = None) -> tuple[Flavour, ...]:
        """The flavours made for `target`: one, or one for each choice of fixed sizes. By default those of the precision that
        the manifest names first."""
        found = [f for f in self.flavours if f.target == target]
        wanted = precision or next((f.precision for f in found), None)
        return tuple(f for f in found if f.precision == wanted)

    def precisions(self, target: str) -> tuple[str, ...]:
        """Those that there are of `target`, the one to take first."""
        return tuple(dict.fromkeys(f.precision for f in self.flavours if f.target == target))


def describe_sizes(sizes: Mapping[str, int]) -> str:
    """`batch=1,sequence=128`, as `edgeattn export --static-shapes` takes it."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())


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
        written = (f for f in dataclasses.fields(value) if f.metadata != WHERE_SET or getattr(value, f.name))
        return {f.name: _encode(getattr(value, f.name)) for f in written}
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
