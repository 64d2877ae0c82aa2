"""Options that variants share, listed once. A variant that fixes one of them takes a dict without it."""

from __future__ import annotations

from typing import TypedDict

from edgeattn.spec import MaskKind, Normalizer, Pattern, Score


class CommonOptions(TypedDict, total=False):
    """Of every variant."""

    score_bias: bool
    """Whether forward takes a float `score_bias`, broadcastable to (B, H, S, T), added to the scores. Default False."""
    dropout: float
    """Share of the attention weights that training drops; the rest is scaled up. Default 0; evaluation drops none."""


class MaskOption(TypedDict, total=False):
    """Of variants that do not fix the kind of mask."""

    mask: MaskKind
    """Which `mask` forward takes: "none" (default), "key_padding" (B, T), "dense" (broadcastable to (B, H, S, T)), both
    bool, True takes part; or "document", int64 (B, T), for T == S: only positions of one number see each other."""


class SoftcapOption(TypedDict, total=False):
    """Of variants that may cap their scores."""

    softcap: float | None
    """cap * tanh(score / cap) before the normalizer; None, the default, leaves scores as they are."""


class SinkOption(TypedDict, total=False):
    """Of variants that may have a sink."""

    sink: bool
    """Whether each head learns the score of a sink, a key without a value. Default False."""


class DefiningOptions(TypedDict, total=False):
    """What most variants are defined by, so that only the general modules take it."""

    pattern: Pattern
    """Which query sees which key by position. Default `Full()`."""
    score: Score
    """"dot" (default), or "additive" with a learned `score_weight` (H, D)."""
    normalizer: Normalizer
    """From scores to weights. Default `Softmax()`."""


class ValueOptions(TypedDict, total=False):
    """Of variants whose sizes are free."""

    value_head_dim: int
    """Size of a value head; 0, the default, means head_dim."""
    scale: float
    """Factor of the scores; 0, the default, means 1 / sqrt(head_dim)."""


class ProjectionOptions(CommonOptions, ValueOptions, total=False):
    """Of variants with linear maps around the core."""

    head_dim: int
    """Size of a query and key head; 0, the default, means embed_dim / num_heads."""
    bias: bool
    """Whether the linear maps have a bias. Default True."""


class KeyValueOption(TypedDict, total=False):
    """Of variants that do not fix the number of key/value heads."""

    num_kv_heads: int | None
    """K, a divisor of num_heads; None, the default, means num_heads."""


class FieldOptions(ValueOptions, MaskOption, SoftcapOption, SinkOption, DefiningOptions):
    """Those that are fields of the spec, under the same names."""


class CoreOptions(CommonOptions, KeyValueOption, FieldOptions):
    """Of the bare core."""


class Options(ProjectionOptions, MaskOption, SoftcapOption, SinkOption):
    """Of most variants with projections, beside their own."""


class SequenceOptions(Options, KeyValueOption):
    """Of most variants in which one sequence sees itself."""


class GeneralOptions(SequenceOptions, DefiningOptions):
    """Of modules with projections that fix nothing."""
