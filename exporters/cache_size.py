"""How large a KV cache is: what a decoder keeps of each position it has read, so as not to read it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeattn.exporters.lowerings.base import Core
from edgeattn.spec import (
    AttentionSpec,
    BlockSparse,
    Causal,
    Dilated,
    Fixed,
    GlobalLocal,
    Pattern,
    PrefixLM,
    SlidingWindow,
    Strided,
)


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Elements of the keys and values of one sequence: `per_token` for each further position, `at_length` in all, and of
    these `windowed` elements in layers whose window has an end, which stop growing there."""

    per_token: int
    at_length: int
    windowed: int


def cache_size(cores: Iterable[tuple[Core, int]]) -> CacheSize | None:
    """For the attention cores of a model, each with its number of keys; None where no query is kept from later keys, so
    that nothing is decoded step by step.

    Self-attention caches what its pattern can still reach; attention to another sequence (an encoder's) all of that.
    """
    sites = list(cores)
    kept = [(core.spec, keys, reach(core.spec.pattern, keys)) for core, keys in sites if _is_own(core)]
    causal = [(spec, keys, positions) for spec, keys, positions in kept if positions is not None]
    if not causal:
        return None
    other = sum(keys * _width(core.spec) for core, keys in sites if not _is_own(core))
    grows = [spec for spec, keys, _ in causal if not _bounded(spec.pattern)]
    windowed = sum(positions * _width(spec) for spec, _, positions in causal if _bounded(spec.pattern))
    total = sum(positions * _width(spec) for spec, _, positions in causal)
    return CacheSize(sum(map(_width, grows)), total + other, windowed)


def reach(pattern: Pattern, length: int) -> int | None:
    """Positions of `length` that later queries may still see; None where earlier queries see later keys."""
    match pattern:
        case Causal() | PrefixLM() | Strided() | Fixed() | BlockSparse(causal=True):
            return length
        case SlidingWindow(left=left, right=0) if left is not None:
            return min(length, left + 1)
        case Dilated(left=left, right=0, dilation=dilation):
            return min(length, left * dilation + 1)
        case GlobalLocal(left=left, tokens=tokens, causal=True):
            return min(length, tokens + left + 1)
    return None


def _is_own(core: Core) -> bool:
    """Whether keys and queries are of one sequence, of which the first part may be in the cache already."""
    return core.square or getattr(core.spec.pattern, "alignment", "") == "lower_right"


def _bounded(pattern: Pattern) -> bool:
    return isinstance(pattern, SlidingWindow | Dilated | GlobalLocal)


def _width(spec: AttentionSpec) -> int:
    """Elements of one position's key and value over all heads."""
    return spec.kv_heads * (spec.head_dim + spec.value_head_dim)
