"""Capability probes: does this runtime, on this device, compute one attention core rightly?

A probe is a small model of exactly the form a lowering writes, with the inputs that its spec names. It is run over sizes that cross the thresholds at which runtimes switch kernels and compared with
`edgeattn.naive`. Sizes are (B, S, T): batch, query length, key length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import EdgeAttnError, RuntimeMissingError
from edgeattn.machine import cpu_identity
from edgeattn.manifest import PAST, TensorInfo
from edgeattn.naive import log_sum_exp, softmax_attention, visible_scores
from edgeattn.parity import compare_arrays
from edgeattn.patterns import longest
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session
from edgeattn.spec import AttentionSpec, Causal, Full, PrefixLM, TopK

Array = NDArray[Any]
Size = tuple[int, int, int]

GRID: tuple[Size, ...] = (
    (1, 1, 1), (1, 7, 7), (2, 16, 16), (1, 64, 64), (2, 65, 65), (1, 128, 128), (1, 333, 333), (1, 513, 513),
)  # fmt: skip
CROSS: tuple[Size, ...] = ((1, 1, 7), (2, 7, 1), (2, 5, 64), (1, 1, 128), (2, 65, 33), (1, 64, 513))
"""Sizes with S != T, run in addition unless the form takes S == T only."""
BEHIND: tuple[Size, ...] = ((2, 1, 65), (3, 1, 300), (1, 33, 1025), (1, 2, 514))
"""Further sizes behind a cache."""

FAR = 1e4
"""How far the scores of hidden keys lie above the visible ones in the adversarial cases."""
_LONGEST = 2048
"""A layout may describe more positions; the truth holds all scores in float64."""
MAX_BATCH, MAX_LENGTH = 2, 1024
"""Largest sizes of a probe whose form is written for fixed ones."""
_SATURATED = 30.0
"""tanh of it is 1 in every float type."""
_SPREAD = 1.5
"""Standard deviation of the scores: far from uniform attention, and within what float32 resolves."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether every size passed; where not, the first that did not and why. `max_abs` is the worst error measured."""

    passed: bool
    reason: str
    max_abs: float


@dataclass(frozen=True, slots=True)
class _Case:
    label: str
    feeds: dict[str, Array]
    expected: dict[str, Array]
    empty: NDArray[np.bool_] | None = None
    """(B, H, S): queries that see no key, where that can be told to be padding."""


def run_probe(
    runtime: Runtime | str,
    device: str,
    model_path: Path,
    spec: AttentionSpec,
    sizes: Sequence[Size] | None = None,
    square: bool = False,
    cached: bool = False,
) -> ProbeResult:
    """Prove, or not, that `runtime` computes `spec` with the model at `model_path`.

    `sizes` None means GRID, and CROSS unless `square`; of these what `cached` leaves where the model takes the first keys
    for a cache. A runtime that fails to load or run the model has not passed.

    Raises:
        RuntimeMissingError: the runtime or the device is not there, so nothing can be said about it.
    """
    engine = registry.get(runtime) if isinstance(runtime, str) else runtime
    chosen = sizes if sizes is not None else sizes_for(spec, square, cached)
    try:
        with engine.load(model_path, LoadOptions(device=device, spin=False, quiet=True)) as session:
            return _sweep(session, spec, chosen, unread=cached and spec.empty_is_padding)
    except RuntimeMissingError:
        raise
    except EdgeAttnError as error:
        return ProbeResult(False, str(error), float("nan"))


def sizes_for(spec: AttentionSpec, square: bool, cached: bool = False) -> tuple[Size, ...]:
    """The sizes a form is probed at: GRID, CROSS unless S == T always, and none beyond what a layout describes.

    Behind a cache there are no fewer keys than queries, and of several queries only one row."""
    limit = longest(spec.pattern)
    chosen = (*GRID, *(() if square or spec.mask == "document" else CROSS))
    if cached:
        chosen = tuple((b if s in (1, t) else 1, s, t) for b, s, t in (*chosen, *BEHIND) if t >= s)
    if limit is None:
        return chosen
    last = min(limit, _LONGEST)
    return (*(size for size in chosen if max(size[1:]) < limit), (1, last, last))


def environment(runtime: Runtime | str, device: str) -> dict[str, str]:
    """What a probe's result depends on: the runtime's version and the processor (or the device's name where not `cpu`)."""
    engine = registry.get(runtime) if isinstance(runtime, str) else runtime
    where = cpu_identity() if device == "cpu" else f"{device} beside {cpu_identity()}"
    return {"runtime_version": engine.check().version, "cpu": where}


@lru_cache(maxsize=64)
def _cases(spec: AttentionSpec, size: Size, inputs: tuple[TensorInfo, ...]) -> tuple[_Case, ...]:
    """Feeds and truth for one size; kept, since an export asks for the same ones for every lowering and runtime."""
    return tuple(_case(label, spec, feeds) for label, feeds in _all_feeds(spec, size, inputs))


def _case(label: str, spec: AttentionSpec, feeds: dict[str, Array]) -> _Case:
    truth = {"out": softmax_attention(**feeds, spec=spec).astype(np.float32)}
    if not (spec.lse or spec.empty_is_padding):
        return _Case(label, feeds, truth)
    scores = visible_scores(**{name: array for name, array in feeds.items() if name not in ("v", "sink")}, spec=spec)
    if spec.lse:
        truth["lse"] = log_sum_exp(scores).astype(np.float32)
    return _Case(label, feeds, truth, np.asarray(np.isneginf(scores).all(axis=-1)))


def _all_feeds(spec: AttentionSpec, size: Size, inputs: Sequence[TensorInfo]) -> Iterator[tuple[str, dict[str, Array]]]:
    """A plain case, then those where what must stay hidden shouts."""
    yield "plain", _plain(spec, size, inputs)
    if spec.mask in ("key_padding", "dense") and size[2] > 1:
        yield "masked keys far above visible ones", _hidden_keys_shout(spec, size, inputs)
    if spec.score == "additive" or (isinstance(spec.pattern, Full) and spec.mask != "document"):
        return  # an additive score is bounded by its weight, so it cannot climb from key to key
    yield "later keys far above earlier ones", _ramp(spec, size, inputs, rising=True)
    if not isinstance(spec.pattern, Causal | PrefixLM):
        yield "earlier keys far above later ones", _ramp(spec, size, inputs, rising=False)


def _sweep(session: Session, spec: AttentionSpec, sizes: Sequence[Size], unread: bool) -> ProbeResult:
    """`unread`: of queries that see no key nothing is asked but a finite number."""
    highest = 0.0
    free = tuple(info for info in session.inputs if info.name not in ("q", "k", "v") and PAST not in info.dims[2:3])
    for size in sizes:
        for case in _cases(spec, size, free):
            got = session.run(_behind(session, case.feeds))
            for name, expected in case.expected.items():
                kept = got[name]
                if unread and case.empty is not None:
                    kept = np.where(case.empty[..., None] & np.isfinite(kept), expected, kept)
                result = compare_arrays(name, kept, expected, "attention")
                if not result.passed:
                    where = f"{case.label}, batch {size[0]}, {size[1]} queries, {size[2]} keys"
                    what = "" if name == "out" else f" of {name}"
                    return ProbeResult(False, f"wrong values{what} ({where}): {result.reason}", result.max_abs)
                highest = max(highest, result.max_abs)
    return ProbeResult(bool(sizes), "" if sizes else "no size was given, so nothing was compared", highest)


def _behind(session: Session, feeds: dict[str, Array]) -> dict[str, Array]:
    """The feeds, of which a model that takes a past gets the first T - S keys and values as such."""
    past = [info.name for info in session.inputs if PAST in info.dims[2:3]]
    if not past:
        return feeds
    count = feeds["k"].shape[2] - feeds["q"].shape[2]
    halves = {name: (feeds[name][:, :, :count], feeds[name][:, :, count:]) for name in ("k", "v")}
    held = {name: before for name, (before, _) in zip(past, halves.values(), strict=True)}
    return {**feeds, **held, **{name: new for name, (_, new) in halves.items()}}


def _plain(spec: AttentionSpec, size: Size, inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Random scores; masks with padding at the end of a row and, for B > 1, a last row with nothing visible."""
    rng = np.random.default_rng([1, *size])
    feeds = _arrays(spec, size, inputs, rng)
    if spec.mask in ("key_padding", "dense"):
        mask = feeds["mask"]
        mask[..., max(1, (size[2] * 3) // 4) :] = False
        if spec.mask == "dense":
            mask &= rng.random(mask.shape) < 0.8
            mask[..., 0] = True
        if size[0] > 1 and mask.shape[0] == size[0]:
            mask[-1] = False
    return feeds


def _hidden_keys_shout(spec: AttentionSpec, size: Size, inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Holes in the mask, and padding on the left of the last row; a masked key's score is FAR above every visible one."""
    rng = np.random.default_rng([2, *size])
    feeds = _arrays(spec, size, inputs, rng)
    shown = rng.random((size[0], size[2])) < 0.6
    shown[-1] = np.arange(size[2]) >= size[2] // 2
    if spec.mask == "dense":
        shown[:] = shown[-1]  # a mask whose batch axis is 1 hides the same keys in every row
    shown[:, -1] = True
    mask = feeds["mask"]
    mask[...] = shown if spec.mask == "key_padding" else shown[-1]
    loud = np.where(shown, 0.0, 1.0)[:, None, :]
    _shout(spec, feeds, loud)
    return feeds


def _ramp(spec: AttentionSpec, size: Size, inputs: Sequence[TensorInfo], rising: bool) -> dict[str, Array]:
    """Scores that climb by FAR from each key to the next (or down), so that a key just outside the pattern shouts."""
    rng = np.random.default_rng([3, rising, *size])
    feeds = _arrays(spec, size, inputs, rng)
    _shout(spec, feeds, np.arange(size[2])[None, None, :] * (1.0 if rising else -1.0))
    return feeds


def _shout(spec: AttentionSpec, feeds: dict[str, Array], loud: Array) -> None:
    """Lift the scores of keys by `loud` (B or 1, 1, T) times FAR, in place, through the first of the D sizes."""
    if spec.score == "additive":
        feeds["q"][..., 0] = 0.0
        feeds["k"][..., 0] = _SATURATED * loud
        feeds["score_weight"][..., 0] = FAR / spec.scale
        return
    feeds["q"][..., 0] = 1.0
    feeds["k"][..., 0] = FAR / spec.scale * loud


def _arrays(spec: AttentionSpec, size: Size, inputs: Sequence[TensorInfo], rng: np.random.Generator) -> dict[str, Array]:
    """q, k, v with scores of standard deviation _SPREAD; every key visible; the rest at random."""
    batch, queries, keys = size
    gain = _SPREAD / (spec.scale * spec.head_dim**0.5)
    feeds: dict[str, Array] = {
        "q": gain * rng.standard_normal((batch, spec.q_heads, queries, spec.head_dim)),
        "k": rng.standard_normal((batch, spec.kv_heads, keys, spec.head_dim)),
        "v": rng.standard_normal((batch, spec.kv_heads, keys, spec.value_head_dim)),
    }
    if isinstance(spec.normalizer, TopK):
        _set_apart(spec, feeds, rng)
    if spec.bias:
        feeds["bias"] = rng.standard_normal(_shape(inputs, "bias", spec, size))
    if spec.sink:
        feeds["sink"] = 1.0 + rng.standard_normal(spec.q_heads)
    if spec.score == "additive":
        feeds["score_weight"] = rng.standard_normal((spec.q_heads, spec.head_dim))
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    if spec.mask == "key_padding":
        feeds["mask"] = np.ones((batch, keys), dtype=bool)
    elif spec.mask == "dense":
        feeds["mask"] = np.ones(_shape(inputs, "mask", spec, size), dtype=bool)
    elif spec.mask == "document":
        feeds["mask"] = _documents(batch, keys, rng)
    if isinstance(spec.pattern, PrefixLM):
        feeds["prefix"] = rng.integers(0, keys + 1, batch)
    return feeds


def _set_apart(spec: AttentionSpec, feeds: dict[str, Array], rng: np.random.Generator) -> None:
    """Scores that follow a random order of the keys in clear steps: a runtime may round, and which key is in must not depend
    on it."""
    batch, heads, keys, size = feeds["k"].shape
    order = rng.permuted(np.broadcast_to(np.arange(keys), (batch, heads, keys)), axis=-1)
    feeds["q"] *= 1e-3 * (np.arange(size) < size - 1)
    feeds["q"][..., -1] += rng.choice([-1.0, 1.0], feeds["q"].shape[:-1])
    feeds["k"][..., -1] = 0.05 / spec.scale * order


def _documents(batch: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Packed rows: documents of some tokens each, the last fifth padding; numbers that come again are one document."""
    numbers = np.cumsum(rng.random((batch, length)) < 0.15, axis=1) % 5
    padding = np.arange(length) >= max(1, length - length // 5)
    return np.where(padding, -1 - numbers, numbers).astype(np.int64)


def _shape(inputs: Sequence[TensorInfo], name: str, spec: AttentionSpec, size: Size) -> tuple[int, ...]:
    """The shape of an input that broadcasts to (B, H, S, T): a fixed size as declared, a dynamic one by its place."""
    full = (size[0], spec.q_heads, size[1], size[2])
    info = next((info for info in inputs if info.name == name), None)
    if info is None or not info.dims:
        return full
    places = full[len(full) - len(info.dims) :]
    return tuple(dim if isinstance(dim, int) else place for dim, place in zip(info.dims, places, strict=True))
