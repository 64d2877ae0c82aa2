"""Tokens, one step after the other, until each row has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeattn.decoding.sampling import Sampling
from edgeattn.decoding.session import DecoderSession
from edgeattn.errors import UsageError


def generate(
    session: DecoderSession,
    prompt: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    suppress: Collection[int] = (),
    suppress_first: Collection[int] = (),
    seed: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """Yield the next token of every row, (B,), as soon as it is chosen; goes on from what `session` holds already, until
    every row has ended, `max_new_tokens` are made, or the model takes no more positions.

    A row that has ended yields its stop token again. Leaving the loop cancels the rest; the session then holds every
    token yielded but the last, and can be used on.

    Args:
        prompt: (B, S); `mask` (B, S) marks padding, which belongs in front.
        stop: tokens that end a row.
        suppress: tokens that are never chosen; `suppress_first` only not as the first one.
        seed: of the draws; the same seed gives the same tokens.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    choose, rng, ends = sampling or Sampling(), np.random.default_rng(seed), np.array(sorted(stop), dtype=np.int64)
    logits = session.prefill(prompt, mask, all_logits=False)[:, -1]
    ended = np.zeros(len(logits), dtype=bool)
    tokens = np.zeros(len(logits), dtype=np.int64)
    for count in range(1, max_new_tokens + 1):
        never = {*suppress, *(suppress_first if count == 1 else ())}
        tokens = np.where(ended, tokens, choose.choose(_without(logits, never), rng))
        yield tokens
        ended |= np.isin(tokens, ends)
        if ended.all() or count == max_new_tokens or session.full:
            return
        logits = session.decode(tokens)


def _without(logits: NDArray[Any], never: Collection[int]) -> NDArray[Any]:
    """(B, V), where the tokens `never` have no chance; those beyond the vocabulary have none anyway."""
    known = [token for token in never if 0 <= token < logits.shape[-1]]
    if not known:
        return logits
    left = logits.copy()
    left[:, known] = -np.inf
    return left
