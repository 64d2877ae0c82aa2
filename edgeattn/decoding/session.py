"""A decoder with its key/value cache: the prompt at once or in chunks, then one token after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeattn.errors import FeedError, UsageError
from edgeattn.manifest import KEEP, LOGITS, PAST, TOKENS, TensorInfo, past_names, present_names
from edgeattn.runtimes.base import Session
from edgeattn.runtimes.carrying import Carried

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

SLACK = 256
"""Positions that a cache may hold beyond a window before they are dropped together."""
MASK, POSITIONS = "attention_mask", "position_ids"


@dataclass(frozen=True, slots=True)
class Read:
    """What has been read: `mask` (B, P) of the positions that the cache still holds, `reached` (B, S) of those that were read last,
    how many are real up to each, and `length` positions in all."""

    mask: Ints
    reached: Ints
    length: int

    @staticmethod
    def first(real: Ints) -> Read:
        """The first positions, (B, S)."""
        return Read(real, real.cumsum(axis=1), real.shape[1])

    def then(self, real: Ints) -> Read:
        """With new positions, (B, S)."""
        mask = np.concatenate([self.mask, real], axis=1)
        return Read(mask, self.reached[:, -1:] + real.cumsum(axis=1), self.length + real.shape[1])

    def last(self, count: int) -> Read:
        """With the last `count` positions in the cache."""
        return Read(self.mask[:, -count:], self.reached, self.length)

    @property
    def positions(self) -> Ints:
        """Position ids of those that were read last, (B, S): padding counts for nothing."""
        ids: Ints = np.maximum(self.reached - 1, 0)
        return ids


_NOTHING = Read(np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0), dtype=np.int64), 0)


class DecoderSession:
    """B sequences that grow together. The cache stays on the runtime's side; this keeps the mask and counts positions.

    Template methods: `_carried`, `_start` and `_feeds`.
    """

    _cache_of = ""
    """Whose cache grows, as `past_names` takes it."""

    def __init__(self, session: Session, capacity: int | None = None, window: int | None = None) -> None:
        self.session = session
        self._pairs = self._carried([info.name for info in session.inputs])
        held = set(self._pairs.values())
        self._past = [info for info in session.inputs if info.name in held]
        self.capacity = capacity
        """Most positions that the model takes, if there is a limit."""
        self.window = window
        """Positions in front of it that a query sees at most, if all layers have a window: no more of the cache is kept for long."""
        self.vocabulary = _vocabulary(session)
        """Number of tokens, if the model says it."""
        self._chain: Carried[Any] | None = None
        self._read = _NOTHING

    @property
    def length(self) -> int:
        """Positions read, padding included."""
        return self._read.length

    @property
    def full(self) -> bool:
        """Whether no further token fits."""
        return self.capacity is not None and self.length >= self.capacity

    def prefill(self, tokens: ArrayLike, mask: ArrayLike | None = None, all_logits: bool = True) -> Floats:
        """Read a prompt, or its next chunk: tokens (B, S) -> logits (B, S, V), or (B, 1, V) of the last token.

        Args:
            all_logits: False where only the last token's are needed, as to go on from there; that is quicker.
            mask: (B, S), 1 where a token is real; padding belongs in front, so that every row ends with a real token.

        Raises:
            FeedError: no tokens, one outside the vocabulary, or a number of rows that differs from the chunk before.
        """
        new = self._tokens(tokens)
        real = np.ones_like(new) if mask is None else _real(mask, new)
        if self._chain is not None and len(new) != len(self._read.mask):
            raise FeedError(
                f"got {len(new)} rows, the cache holds {len(self._read.mask)}; reset() first, or go on with as many"
            )
        if self.capacity is not None and self.length + new.shape[1] > self.capacity:
            raise FeedError(
                f"{new.shape[1]} more tokens behind the {self.length} in the cache are too many: the model takes at most "
                f"{self.capacity} positions; give a shorter prompt, or reset()"
            )
        return self._advance(new, real, np.arange(0 if all_logits else new.shape[1] - 1, new.shape[1]))

    def decode(self, tokens: ArrayLike) -> Floats:
        """One more token for every row: (B,) -> logits (B, V).

        Raises:
            UsageError: nothing was read before.
            FeedError: as `prefill`.
        """
        if self._chain is None:
            raise UsageError("decode before prefill: the cache is empty; call prefill(prompt) first")
        return self.prefill(np.asarray(tokens)[:, None])[:, 0]

    def reset(self) -> None:
        """Forget all tokens."""
        self._chain, self._read = None, _NOTHING

    def fork(self) -> Self:
        """A session of the same model that goes on from here; the two do not see each other's tokens."""
        other = copy.copy(self)
        other._chain = None if self._chain is None else self._chain.fork()
        return other

    def close(self) -> None:
        """Free the model, for every fork as well."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _advance(self, new: Ints, real: Ints, kept: Ints) -> Floats:
        read = self._read.then(real) if self._chain else Read.first(real)
        feeds = self._feeds(new, read, kept)
        chain = self._chain or self.session.carrying(self._pairs, self._start(len(new)))
        step = chain.step if self._chain is None else chain.advance  # feeds are alike in each step, and looked at in the first
        logits = step(feeds)[LOGITS]
        if self.window is not None and read.mask.shape[1] > self.window + SLACK:
            chain.keep_last(self.window)
            read = read.last(self.window)
        self._chain, self._read = chain, read
        if KEEP not in feeds:
            logits = logits[:, kept]
        return logits

    def _carried(self, names: Sequence[str]) -> dict[str, str]:
        """Output -> the input among `names` that it becomes. Raises UsageError where there is none."""
        layers = len(set(names).intersection(past_names(len(names), self._cache_of))) // 2
        if not layers:
            raise UsageError(f"the model has no cache (its inputs are {', '.join(names)}); export it with --cache dynamic")
        return dict(zip(present_names(layers, self._cache_of), past_names(layers, self._cache_of), strict=True))

    def _start(self, rows: int) -> dict[str, NDArray[Any]]:
        """What the model is given once, before the first token."""
        return {info.name: _empty(info, rows) for info in self._past}

    def _feeds(self, new: Ints, read: Read, kept: Ints) -> dict[str, NDArray[Any]]:
        """What the model is given with new tokens (B, S), which `read` counts already; logits of those `kept` are wanted."""
        return {TOKENS: new, MASK: read.mask, POSITIONS: read.positions, KEEP: kept}

    def _tokens(self, tokens: ArrayLike) -> Ints:
        new = np.asarray(tokens)
        if new.ndim != 2 or not new.size:
            raise FeedError(f"tokens have shape {list(new.shape)}; expected (batch, sequence) with at least one token")
        if new.dtype.kind not in "iu":
            raise FeedError(f"tokens are {new.dtype}; expected whole numbers")
        new = np.ascontiguousarray(new, dtype=np.int64)
        given = new.ravel().tolist()  # of one token, Python finds these two in less time than numpy
        low, high = min(given), max(given)
        if low < 0 or (self.vocabulary is not None and high >= self.vocabulary):
            wrong = low if low < 0 else high
            raise FeedError(
                f"token {wrong} is outside the vocabulary of {self.vocabulary} tokens; was it made by another tokenizer?"
            )
        return new


def _real(mask: ArrayLike, tokens: Ints) -> Ints:
    """A mask that goes with tokens (B, S). Raises FeedError for any other."""
    real = np.array(mask, dtype=np.int64, order="C")  # a copy, which is kept
    if real.shape != tokens.shape:
        raise FeedError(f"the mask has shape {list(real.shape)}, the tokens have {list(tokens.shape)}; make them equal")
    if not np.isin(real, (0, 1)).all() or not real[:, -1].all():
        raise FeedError("a mask holds 1 for a real token and 0 for padding, which belongs in front: its last column must be 1")
    return real


def _vocabulary(session: Session) -> int | None:
    size = next((info.dims[-1] for info in session.outputs if info.name == LOGITS), None)
    return size if isinstance(size, int) else None


def _empty(info: TensorInfo, batch: int) -> NDArray[Any]:
    """A cache with nothing in it."""
    sizes = [batch if axis == 0 else 0 if dim == PAST else dim for axis, dim in enumerate(info.dims)]
    return np.zeros([int(size) for size in sizes], dtype=info.dtype)
