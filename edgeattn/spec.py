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
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgeattn import normalizers, patterns
from edgeattn.errors import SpecError
from edgeattn.fields import build, check_flag, check_int, check_one_of, finite
from edgeattn.normalizers import Entmax15, Normalizer, Sigmoid, Softmax, Sparsemax, TopK
from edgeattn.patterns import (
    Alignment,
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    Full,
    GlobalLocal,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
)

__all__ = [
    "Alignment",
    "AttentionSpec",
    "BlockSparse",
    "Causal",
    "Dilated",
    "Entmax15",
    "Fixed",
    "Full",
    "GlobalLocal",
    "MaskKind",
    "Normalizer",
    "Pattern",
    "PrefixLM",
    "Score",
    "Sigmoid",
    "SlidingWindow",
    "Softmax",
    "SoftmaxAttention",
    "Sparsemax",
    "Strided",
    "TopK",
    "from_dict",
    "from_json",
    "function_name",
    "to_dict",
    "to_json",
]

MaskKind = Literal["none", "key_padding", "dense", "document"]
"""`key_padding`: bool (B, T). `dense`: bool, broadcastable to (B, H, S, T). True takes part. `document`: int64 (B, T), for
S == T: a position sees those with the same number; a negative number is padding."""

Score = Literal["dot", "additive"]
"""`dot`: scale * q k^T. `additive`: scale * sum over D of w * tanh(q + k), w the input `score_weight` (H, D)."""


@dataclass(frozen=True, slots=True)
class SoftmaxAttention:
    """normalizer(softcap(score(q, k)) + bias, over the visible keys) v: softmax attention and its close relatives.

    Inputs of a node, in this order, those after v only where the spec asks for them: q (B, H, S, D), k (B, K, T, D),
    v (B, K, T, E); `mask`; `bias`, float, broadcastable to (B, H, S, T); `sink`, float (H,): the score of a key that
    takes its share of the softmax and has no value (https://arxiv.org/abs/2508.10925); `score_weight`, float (H, D), for
    additive scores (Bahdanau et al., 2014, https://arxiv.org/abs/1409.0473); `prefix`, int64 (B,), for PrefixLM.
    Output: (B, H, S, E). Query head h reads key/value head h // (H / K). A query that sees no key gives zeros.

    Raises:
        SpecError: a field, or a combination of fields, that no attention can have.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    value_head_dim: int = 0
    """0 means the same as `head_dim`; the stored value is never 0."""
    scale: float = 0.0
    """0 means 1/sqrt(head_dim), for additive scores 1; the stored value is never 0."""
    pattern: Pattern = Full()  # noqa: RUF009 - frozen and without fields
    softcap: float | None = None
    """cap * tanh(score / cap), before bias and mask (Gemma 2; ONNX `softcap`)."""
    mask: MaskKind = "none"
    bias: bool = False
    sink: bool = False
    score: Score = "dot"
    normalizer: Normalizer = Softmax()  # noqa: RUF009 - likewise
    lse: bool = False
    """Partial attention: a second output (B, H, S), the log of the sum of exp(score); -inf where a query sees no key."""

    def __post_init__(self) -> None:
        for name in ("q_heads", "kv_heads", "head_dim"):
            check_int(name, getattr(self, name))
        if self.value_head_dim == 0:
            object.__setattr__(self, "value_head_dim", self.head_dim)
        check_int("value_head_dim", self.value_head_dim)
        check_one_of("mask", self.mask, get_args(MaskKind))
        check_one_of("score", self.score, get_args(Score))
        check_flag("bias", self.bias)
        check_flag("sink", self.sink)
        check_flag("lse", self.lse)
        patterns.check_pattern(self.pattern)
        normalizers.check_normalizer(self.normalizer)
        self._store_numbers()
        self._check_together()

    def _store_numbers(self) -> None:
        """Stored as floats: 2 and 2.0 are equal, and so must be their JSON and with it the operator's name."""
        usual = self._usual_scale
        scale = usual if self.scale == 0 else finite("scale", self.scale)
        # head_dim**-0.5 may differ from it in the last bit, yet is the same attention
        object.__setattr__(self, "scale", usual if math.isclose(scale, usual, rel_tol=1e-9) else scale)
        if self.softcap is not None:
            object.__setattr__(self, "softcap", finite("softcap", self.softcap))

    def _check_together(self) -> None:
        if self.q_heads % self.kv_heads:
            raise SpecError(
                f"q_heads ({self.q_heads}) must be a multiple of kv_heads ({self.kv_heads}), "
                "since each key/value head serves an equal group of query heads"
            )
        if self.sink and not isinstance(self.normalizer, Softmax):
            raise SpecError(f"a sink takes its share of a softmax's sum; {self.normalizer.summary()} has no such sum")
        if self.lse and (self.sink or not isinstance(self.normalizer, Softmax)):
            what = "a sink, which each part would count again" if self.sink else self.normalizer.summary()
            raise SpecError(f"parts can be merged by their log-sum-exp for a plain softmax only, not with {what}")
        if isinstance(self.pattern, BlockSparse) and len(self.pattern.layout) not in (1, self.q_heads):
            raise SpecError(
                f"BlockSparse.layout has {len(self.pattern.layout)} tables; expected 1 for all heads, or q_heads ({self.q_heads})"
            )

    @property
    def _usual_scale(self) -> float:
        return 1.0 if self.score == "additive" else 1.0 / math.sqrt(self.head_dim)

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.q_heads // self.kv_heads

    @property
    def input_names(self) -> tuple[str, ...]:
        """The node's inputs in order."""
        return ("q", "k", "v", *(name for name, asked in self.asks.items() if asked))

    @property
    def asks(self) -> dict[str, bool]:
        """Whether the node has each of the inputs after v."""
        return {
            "mask": self.mask != "none",
            "bias": self.bias,
            "sink": self.sink,
            "score_weight": self.score == "additive",
            "prefix": isinstance(self.pattern, PrefixLM),
        }

    @property
    def output_names(self) -> tuple[str, ...]:
        """The node's outputs in order."""
        return ("out", "lse") if self.lse else ("out",)

    @property
    def plain(self) -> bool:
        """A softmax of dot products and nothing else, which is what fused operators compute (masks and patterns aside)."""
        return self.score == "dot" and isinstance(self.normalizer, Softmax) and not self.sink and not self.lse

    @property
    def empty_is_padding(self) -> bool:
        """Behind a cache, where every query has a key of its own: a query that sees no key must be padding itself."""
        return self.mask == "key_padding" and not self.bias and patterns.sees_itself(self.pattern)

    def summary(self) -> str:
        """One line for tables: `12 heads x 32, key_padding mask`."""
        heads = (
            f"{self.q_heads} head{'s' * (self.q_heads > 1)}" if self.group == 1 else f"{self.q_heads}q/{self.kv_heads}kv heads"
        )
        size = f"{self.head_dim}" if self.value_head_dim == self.head_dim else f"{self.head_dim}/{self.value_head_dim}"
        usual = math.isclose(self.scale, self._usual_scale, rel_tol=1e-6)
        parts = {
            f"{heads} x {size}": True,
            f"{self.score} score": self.score != "dot",
            self.pattern.summary(): not isinstance(self.pattern, Full),
            f"scale {self.scale:g}": not usual,
            f"softcap {self.softcap or 0:g}": self.softcap is not None,
            f"{self.mask} mask": self.mask != "none",
            "bias": self.bias,
            "sink": self.sink,
            "log-sum-exp": self.lse,
            self.normalizer.summary(): not isinstance(self.normalizer, Softmax),
        }
        return ", ".join(part for part, said in parts.items() if said)


AttentionSpec = SoftmaxAttention
"""The union of the kinds of attention core; softmax attention is its first member."""

_LATER: dict[str, Any] = {"sink": False, "score": "dot", "normalizer": Softmax(), "lse": False}
"""Fields that are written only where they differ, so that specs without them keep their JSON and their operator's name."""


def to_dict(spec: AttentionSpec) -> dict[str, Any]:
    """A JSON-ready dict; `from_dict` reads it back."""
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    fields = {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}
    fields["pattern"] = patterns.to_dict(spec.pattern)
    if "normalizer" in fields:
        fields["normalizer"] = normalizers.to_dict(spec.normalizer)
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
        fields["pattern"] = patterns.from_dict(fields["pattern"])
    if "normalizer" in fields:
        fields["normalizer"] = normalizers.from_dict(fields["normalizer"])
    return build(SoftmaxAttention, fields)


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
