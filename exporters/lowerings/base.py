"""The contract of a lowering: one form of an attention core in a target's operators."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.spec import AttentionSpec, Softmax


@dataclass(frozen=True, slots=True)
class Core:
    """An attention core as a lowering sees it: the spec, and what the graph knows about its lengths.

    `square`: query length and key length are the same symbol, so S == T always.
    `max_keys`: the largest T the model accepts, None where nothing bounds it.
    `mask_dims`, `bias_dims`: their shapes, lined up with (B, H, S, T) from the right; None for a size that varies.
    `size`: (B, S, T) where the graph is written for these alone.
    `cached`: keys and values are a cache that this core alone reads, with the new ones behind it.
    """

    spec: AttentionSpec
    square: bool = False
    max_keys: int | None = None
    mask_dims: tuple[int | None, ...] = ()
    bias_dims: tuple[int | None, ...] = ()
    size: tuple[int, int, int] | None = None
    cached: bool = False

    @property
    def guarded(self) -> bool:
        """Whether a query that sees no key gives zeros. Behind a cache it may be padding, for which nothing is promised but
        a finite number."""
        return not (self.cached and self.spec.empty_is_padding)


@dataclass(frozen=True, slots=True)
class Operands:
    """The values at a site's border: q (B, H, S, D), k (B, K, T, D), v (B, K, T, E), and what the spec names.

    A form that updates a cache itself gets `past_k` (B, K, P, D) and `past_v` (B, K, P, E), and in k and v what is new.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None = None
    bias: ir.Value | None = None
    sink: ir.Value | None = None
    score_weight: ir.Value | None = None
    prefix: ir.Value | None = None
    past_k: ir.Value | None = None
    past_v: ir.Value | None = None

    @classmethod
    def of(cls, spec: AttentionSpec, inputs: list[ir.Value]) -> Operands:
        """Operands from a canonical node's inputs, in the spec's order."""
        return cls(**dict(zip(spec.input_names, inputs, strict=True)))


def beyond_softmax(spec: AttentionSpec) -> str | None:
    """Why a form that only knows the softmax of dot products cannot express `spec`; None where it can."""
    return beyond_sinks(spec) or ("it has no sink" if spec.sink else None)


def beyond_sinks(spec: AttentionSpec) -> str | None:
    """As `beyond_softmax`, for a form that knows sinks as well."""
    if spec.score != "dot":
        return f"it has no {spec.score} scores"
    if not isinstance(spec.normalizer, Softmax):
        return f"it has no {spec.normalizer.summary()}"
    return "it does not give the log-sum-exp" if spec.lse else None


class Lowering(abc.ABC):
    """One form. Stateless; a row of `edgeattn.exporters.lowerings.registry`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """What it writes, in one line."""
    takes: ClassVar[str]
    """What it accepts, in one line."""
    opset: ClassVar[int] = 18
    """Smallest ai.onnx opset that has its operators."""
    domains: ClassVar[tuple[str, ...]] = ()
    """Operator domains beyond ai.onnx."""
    time: ClassVar[str] = "S T D"
    """Order of the time it takes for one head; W keys that a query sees, G global positions."""
    updates_cache: ClassVar[bool] = False
    """Whether it takes a cache and what is new instead of both together, and gives the new cache behind its outputs; past and
    present may then be one buffer."""
    sized: ClassVar[bool] = False
    """Whether what it writes follows `core.max_keys`: then a proof holds for that alone."""
    turns_rows: ClassVar[bool] = False
    """Whether rotary positions of the model become operators on (B, S, H D) beside it (`passes.rotary`)."""
    memory: ClassVar[str] = "S T"
    """Order of the elements it holds for one head beside its inputs and output; `scratch` counts them."""

    @abc.abstractmethod
    def accepts(self, core: Core) -> str | None:
        """None when the form can express `core`, otherwise the reason why not."""

    @abc.abstractmethod
    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        """Write the form; returns the context, (B, H, S, E)."""

    def outputs(self, b: Builder, core: Core, x: Operands) -> tuple[ir.Value, ...]:
        """Write the form; returns a value for each of `core.spec.output_names`."""
        return (self.lower(b, core, x),)

    @abc.abstractmethod
    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        """Elements the form holds beyond its inputs and output, as a function of B, S, T and the spec's H and D."""
