"""One way to write a flavour in smaller numbers: written, loaded, scored and timed beside the flavour at full precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from edgeattn.benchmarking.feeds import make_feeds, resolve_sizes
from edgeattn.benchmarking.interleave import interleave
from edgeattn.benchmarking.stats import Ratio, compare_timings, judged
from edgeattn.bundle import Bundle
from edgeattn.decoding.session import DecoderSession
from edgeattn.errors import UsageError
from edgeattn.exporters.quantize.kinds import CACHE, Kind, Kinds, Layer, kinds_of
from edgeattn.exporters.quantize.ranges import Method
from edgeattn.exporters.quantize.samples import Feeds, is_decoder
from edgeattn.exporters.quantize.writers import WRITERS, Writer
from edgeattn.loading import BundleSession
from edgeattn.manifest import FP32, PAST, SHARED, STATEFUL, Flavour
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

_ROUNDS = 30
PROMPT, ANSWER = 256, 64
"""Tokens that a decoder reads and then makes, in what it is timed by."""
_TURNS, _TOKENS = 10, 12
"""In which a decoder is timed, and the tokens that it makes in one; one more turn warms up."""


def kinds_used(kinds: Kinds, layers: Iterable[str]) -> dict[str, int]:
    """Kind -> how many of `layers` are written so; `fp32` those left. None where there are no kinds."""
    if not kinds:
        return {}
    counted = Counter(kinds[layer].name if layer in kinds else FP32 for layer in layers)
    return dict(sorted(counted.items()))


def cache_of(kinds: Kinds) -> str:
    """What keys and values are kept in."""
    return (kinds[CACHE].cache if CACHE in kinds else None) or FP32


def activations_of(kinds: Kinds) -> str:
    """What the runtime has to be told that products may round their inputs to."""
    return "int8" if any(kind.activations == "int8" for kind in kinds.values()) else FP32


def steps_within(capacity: int | None) -> tuple[int, int]:
    """How long the prompt is and how many tokens a turn has, so that all turns fit into a model of at most `capacity` positions."""
    turns = _TURNS + 1
    if capacity is None or capacity >= PROMPT + turns * _TOKENS:
        return PROMPT, _TOKENS
    tokens = max(1, min(_TOKENS, (capacity - 1) // turns))
    return max(1, capacity - turns * tokens), tokens


@dataclass(frozen=True, slots=True)
class Timed(Ratio):
    """Of a run over that at full precision; of a decoder, of a prompt together with `ANSWER` tokens behind it. `seconds` is the
    median of a run, or of one token, `prompt` that of the prompt; `parts` are the two over those at full precision, the prompt first."""

    seconds: float
    prompt: float | None = None
    parts: tuple[float, float] | None = None

    def through(self, other: Timed) -> Timed:
        """This, which is over what `other` is of, over what `other` is over. Its interval is scaled, not widened by the other's."""
        value, low, high = (each * other.value for each in (self.value, self.low, self.high))
        mine, theirs = self.parts, other.parts
        parts = (mine[0] * theirs[0], mine[1] * theirs[1]) if mine is not None and theirs is not None else None
        return replace(self, value=value, low=low, high=high, verdict=judged(low, high), parts=parts)


@dataclass(frozen=True)
class Workshop:
    """Makes candidates of one flavour of a bundle and runs them. `folder` is for those that come and go."""

    bundle: Bundle
    flavour: Flavour
    runtime: Runtime
    device: str
    calibration: Sequence[Feeds]
    folder: Path
    threads: int | None = None
    method: Method | None = None

    @property
    def path(self) -> Path:
        """The file at full precision."""
        return self.bundle.file(self.flavour.file)

    @cached_property
    def writer(self) -> Writer:
        """Of the runtime's own files."""
        return WRITERS[self.runtime.name](self.path, self.bundle.manifest, self.calibrating, self.method)

    @property
    def layers(self) -> dict[str, Layer]:
        """What can be written in smaller numbers, by name, in the order of the graph."""
        return self.writer.layers

    @property
    def keeps_cache(self) -> bool:
        """Whether the runtime keeps the cache, and so may keep it in smaller numbers."""
        return self.flavour.cache in (SHARED, STATEFUL)

    @property
    def writes_token(self) -> bool:
        """Whether a single token can have a graph of its own."""
        return self.writer.writes_token and self.keeps_cache

    def kinds(self, name: str) -> Kinds:
        """What `kinds.kinds_of` says, for this model.

        Raises:
            UsageError: it has a kind for a cache that the runtime does not keep, or the model nothing that could be smaller.
        """
        if not self.layers:
            raise UsageError("the model has no weights large enough for smaller numbers to matter: leave out --precision")
        found: dict[str, Kind] = {}
        for each in kinds_of(self.runtime.name, name):
            if each.cache is not None and not self.keeps_cache:
                raise UsageError(
                    f"{each.name} is for a cache that the runtime keeps itself; the flavour for {self.flavour.target} has none"
                )
            found |= dict.fromkeys([CACHE] if each.cache is not None else self.layers, each)
        return found

    def calibrating(self) -> list[Feeds]:
        """The samples to find scales with, as the file takes them: a language model reads them with an empty cache."""
        if not is_decoder(self.bundle):
            return list(self.calibration)
        return [self._whole(feeds) for feeds in self.calibration]

    def _whole(self, feeds: Feeds) -> Feeds:
        (tokens,) = feeds.values()
        length = tokens.shape[1]
        fed = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(length, dtype=np.int64)[None],
            "logits_to_keep": np.arange(length),
        }
        infos = [info for info in self.bundle.manifest.inputs if info.name not in fed]
        empty = {i.name: np.zeros([d if isinstance(d, int) else int(d == "batch") for d in i.dims], i.dtype) for i in infos}
        return {**fed, **empty}

    def make(self, kinds: Kinds, folder: Path, stem: str) -> tuple[Path, dict[str, int]]:
        """The file of a candidate, and its operator domains: written to `folder`, its numbers beside it, unless it is the one at
        full precision, where what a cache is kept in is only said to the runtime."""
        if not set(kinds) - {CACHE} and not self.writer.writes_cache:
            return self.path, self.flavour.domains
        path = folder / f"{stem}{self.writer.suffix}"
        return path, self.writer.write(kinds, path, f"{stem}.bin")

    def load(self, path: Path, kinds: Kinds) -> Session:
        """A session of a candidate's file, as the bundle's reader would open it."""
        options = LoadOptions(
            self.device,
            self.threads,
            spin=False,
            cache=self.flavour.cache,
            activations=activations_of(kinds),
            kv=cache_of(kinds),
        )
        return BundleSession([self.runtime.load(path, options)], self.bundle.manifest, [self.flavour])

    def times(self, sessions: Sequence[Session], full: Session) -> list[Timed]:
        """Of each, over `full`, all interleaved. A decoder reads `PROMPT` tokens and makes others behind them, fewer where
        the model takes fewer."""
        if is_decoder(self.bundle):
            return self._turns(sessions, full)
        feeds = make_feeds(self.bundle, resolve_sizes(self.bundle, None))
        *seconds, whole = interleave([partial(each.run, feeds) for each in (*sessions, full)], _ROUNDS)
        return [Timed(**asdict(compare_timings(each, whole)), seconds=float(np.median(each))) for each in seconds]

    def _turns(self, sessions: Sequence[Session], full: Session) -> list[Timed]:
        capacity = self.bundle.manifest.limits.get(PAST)
        length, tokens = steps_within(capacity)
        decoders = [DecoderSession(each, capacity) for each in (*sessions, full)]
        prompt = np.ones((1, length), dtype=np.int64)

        def read(decoder: DecoderSession) -> None:
            decoder.reset()
            decoder.prefill(prompt, all_logits=False)

        prompts = interleave([partial(read, each) for each in decoders], _TURNS, warmup=1)
        steps = interleave([partial(each.decode, [1]) for each in decoders], _TURNS, warmup=1, in_a_row=tokens)
        *turns, whole = np.asarray(prompts) + ANSWER * np.asarray(steps)
        found = []
        for turn, step, read_in in zip(turns, steps, prompts, strict=False):
            parts = (compare_timings(read_in, prompts[-1]).value, compare_timings(step, steps[-1]).value)
            seconds, prompt_seconds = float(np.median(step)), float(np.median(read_in))
            found.append(Timed(**asdict(compare_timings(turn, whole)), seconds=seconds, prompt=prompt_seconds, parts=parts))
        return found
