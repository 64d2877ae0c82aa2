"""AttentionSpec: what one attention core computes, between projected q, k, v and the context vectors.

The one object that travels from the PyTorch module to the manifest of a bundle. Frozen, typed, serializable, free of
torch. Names and meanings follow the ONNX `Attention` operators (23-25) where ONNX has the idea.

Letters: B batch, H query heads, K key/value heads, S query length, T key length, D head size, E value head size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from edgeattn.errors import SpecError

_T = TypeVar("_T")

Alignment = Literal["upper_left", "lower_right"]
"""Where the diagonal of a pattern lies when S != T: at the first key (`upper_left`, as `is_causal` of torch and ONNX
without a past) or so that the last query meets the last key (`lower_right`, as with a KV cache)."""

MaskKind = Literal["none", "key_padding", "dense"]
"""`key_padding`: bool (B, T). `dense`: bool, broadcastable to (B, H, S, T). True takes part."""


@dataclass(frozen=True, slots=True)
class Full:
    """Every query sees every key."""


@dataclass(frozen=True, slots=True)
class Causal:
    """Query i sees key j when j <= i + offset; offset is 0 (`upper_left`) or T - S (`lower_right`)."""

    alignment: Alignment = "upper_left"

    def __post_init__(self) -> None:
        _one_of("alignment", self.alignment, get_args(Alignment))


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Query i sees key j when -left <= j - i - offset <= right. None on a side means no limit there.

    A causal window of W keys is `SlidingWindow(left=W - 1, right=0)` (ONNX left_window_size, right_window_size).
    """

    left: int | None
    right: int | None
    alignment: Alignment = "upper_left"

    def __post_init__(self) -> None:
        for side, value in (("left", self.left), ("right", self.right)):
            if value is not None and (not _is_int(value) or value < 0):
                raise SpecError(f"SlidingWindow.{side} must be a whole number >= 0 or None, got {value!r}")
        if self.left is None and self.right is None:
            raise SpecError("SlidingWindow without a left and a right limit hides nothing: use Full()")
        if self.left is None and self.right == 0:
            raise SpecError("SlidingWindow(left=None, right=0) is Causal(): use that")
        _one_of("alignment", self.alignment, get_args(Alignment))


Pattern = Full | Causal | SlidingWindow
_PATTERNS: dict[str, type[Pattern]] = {"full": Full, "causal": Causal, "sliding_window": SlidingWindow}
_PATTERN_NAMES = {cls: name for name, cls in _PATTERNS.items()}


@dataclass(frozen=True, slots=True)
class SoftmaxAttention:
    """softmax(softcap(scale * q k^T) + bias, over the visible keys) v.

    Inputs of a node, in this order: q (B, H, S, D), k (B, K, T, D), v (B, K, T, E), then `mask` when `mask != "none"`
    and `bias` (float, broadcastable to (B, H, S, T)) when `bias`. Output: (B, H, S, E). Query head h reads key/value
    head h // (H / K). A query that sees no key gives zeros.

    Raises:
        SpecError: a field, or a combination of fields, that no attention can have.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    value_head_dim: int = 0
    """0 means the same as `head_dim`; the stored value is never 0."""
    scale: float = 0.0
    """0 means 1/sqrt(head_dim); the stored value is never 0."""
    pattern: Pattern = Full()
    softcap: float | None = None
    """cap * tanh(score / cap), before bias and mask (Gemma 2; ONNX `softcap`)."""
    mask: MaskKind = "none"
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("q_heads", "kv_heads", "head_dim"):
            _positive_int(name, getattr(self, name))
        if self.value_head_dim == 0:
            object.__setattr__(self, "value_head_dim", self.head_dim)
        _positive_int("value_head_dim", self.value_head_dim)
        if self.q_heads % self.kv_heads:
            raise SpecError(
                f"q_heads ({self.q_heads}) must be a multiple of kv_heads ({self.kv_heads}), "
                "since each key/value head serves an equal group of query heads"
            )
        # Stored as floats: 2 and 2.0 are equal, and so must be their JSON and with it the operator's name.
        usual = 1.0 / math.sqrt(self.head_dim)
        scale = usual if self.scale == 0 else _positive_float("scale", self.scale)
        # head_dim**-0.5 may differ from it in the last bit, yet is the same attention
        object.__setattr__(self, "scale", usual if math.isclose(scale, usual, rel_tol=1e-9) else scale)
        if self.softcap is not None:
            object.__setattr__(self, "softcap", _positive_float("softcap", self.softcap))
        if type(self.pattern) not in _PATTERN_NAMES:
            raise SpecError(f"pattern must be one of {', '.join(c.__name__ for c in _PATTERN_NAMES)}, got {self.pattern!r}")
        _one_of("mask", self.mask, get_args(MaskKind))
        if not isinstance(self.bias, bool):
            raise SpecError(f"bias must be True or False, got {self.bias!r}")

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.q_heads // self.kv_heads

    @property
    def input_names(self) -> tuple[str, ...]:
        """The node's inputs in order."""
        return ("q", "k", "v", *(["mask"] if self.mask != "none" else []), *(["bias"] if self.bias else []))

    def summary(self) -> str:
        """One line for tables: `12 heads x 32, key_padding mask`."""
        heads = (
            f"{self.q_heads} head{'s' * (self.q_heads > 1)}" if self.group == 1 else f"{self.q_heads}q/{self.kv_heads}kv heads"
        )
        size = f"{self.head_dim}" if self.value_head_dim == self.head_dim else f"{self.head_dim}/{self.value_head_dim}"
        parts = [f"{heads} x {size}"]
        if not isinstance(self.pattern, Full):
            parts.append(describe_pattern(self.pattern))
        if not math.isclose(self.scale, self.head_dim**-0.5, rel_tol=1e-6):
            parts.append(f"scale {self.scale:g}")
        if self.softcap is not None:
            parts.append(f"softcap {self.softcap:g}")
        if self.mask != "none":
            parts.append(f"{self.mask} mask")
        if self.bias:
            parts.append("bias")
        return ", ".join(parts)


AttentionSpec = SoftmaxAttention
"""The union of the kinds of attention core; softmax attention is its first member."""


def describe_pattern(pattern: Pattern) -> str:
    """`causal`, `window [127, 0]`, ..."""
    name = _PATTERN_NAMES[type(pattern)]
    if isinstance(pattern, SlidingWindow):
        sides = ["all" if side is None else str(side) for side in (pattern.left, pattern.right)]
        name = f"window [{sides[0]}, {sides[1]}]"
    aligned = getattr(pattern, "alignment", "upper_left")
    return name if aligned == "upper_left" else f"{name} {aligned}"


def to_dict(spec: AttentionSpec) -> dict[str, Any]:
    """A JSON-ready dict; `from_dict` reads it back."""
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    fields["pattern"] = {"type": _PATTERN_NAMES[type(spec.pattern)], **dataclasses.asdict(spec.pattern)}
    return {"type": "softmax", **fields}


def from_dict(data: Any) -> AttentionSpec:
    """The spec that `to_dict` wrote.

    Raises:
        SpecError: an unknown type or field, a missing field, or a value no attention can have.
    """
    if not isinstance(data, dict) or data.get("type") != "softmax":
        raise SpecError(f"expected an attention spec of type 'softmax', got {data!r:.80}")
    fields = {key: value for key, value in data.items() if key != "type"}
    if "pattern" in fields:
        fields["pattern"] = _pattern_from_dict(fields["pattern"])
    return _construct(SoftmaxAttention, fields)


def to_json(spec: AttentionSpec) -> str:
    """Canonical JSON (sorted keys, no spaces): equal specs give equal text."""
    return json.dumps(to_dict(spec), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> AttentionSpec:
    """The spec that `to_json` wrote. Raises SpecError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"an attention spec must be JSON: {error}") from error
    return from_dict(data)


def function_name(spec: AttentionSpec) -> str:
    """`Attention_<short hash>`: the operator name of this spec's canonical node, one per distinct spec."""
    return f"Attention_{hashlib.sha256(to_json(spec).encode()).hexdigest()[:8]}"


def _pattern_from_dict(data: Any) -> Pattern:
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _PATTERNS:
        raise SpecError(f"expected a pattern of type {', '.join(_PATTERNS)}, got {data!r:.80}")
    return _construct(_PATTERNS[kind], {key: value for key, value in data.items() if key != "type"})


def _construct(cls: type[_T], fields: dict[str, Any]) -> _T:
    try:
        return cls(**fields)
    except TypeError as error:
        raise SpecError(f"{cls.__name__}: {error}") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive_int(name: str, value: object) -> None:
    if not _is_int(value) or value < 1:  # type: ignore[operator]
        raise SpecError(f"{name} must be a whole number >= 1, got {value!r}")


def _positive_float(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
        return float(value)
    raise SpecError(f"{name} must be a finite number > 0, got {value!r}")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
