"""What a decoder says of a text however it is read: whole, in chunks, token by token, beside a fork of itself.

The truth are PyTorch's logits without a cache, kept small: of each position the highest with their tokens, and the
log-sum-exp of all of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.decoding.session import MASK, DecoderSession
from edgeattn.errors import BundleError
from edgeattn.golden import Golden, read_case
from edgeattn.manifest import TOKENS
from edgeattn.parity import Comparison, compare_arrays
from edgeattn.tolerance import tolerance

Array = NDArray[Any]
Ints = NDArray[np.int64]

TOP = 8
"""Logits kept of each position."""
_FEWEST = 8
"""Tokens that a text has more than, so that it can be cut into chunks."""
PROMPT, GREEDY, MARGIN = "prompt", "greedy", "margin"
"""A prompt, the tokens that PyTorch finds likeliest behind it, and by how much each of them leads the second."""
_IDS, _HIGHEST, _LSE = "ids", "highest", "log_sum_exp"


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the text, and how far its logits lie from PyTorch's; `seconds` is the wall time, for orientation."""

    name: str
    comparisons: tuple[Comparison, ...]
    seconds: float


def summary(logits: Array) -> dict[str, Array]:
    """(B, S, V) -> the TOP highest logits of each position with their tokens, (B, S, TOP), and the log-sum-exp, (B, S)."""
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :TOP].astype(np.int64)
    return {_IDS: ids, **_kept(logits, ids)}


def read_evidence(bundle: Bundle) -> Golden | None:
    """The text that a bundle holds; None where it has no cache.

    Raises:
        BundleError: it is malformed.
    """
    case = bundle.manifest.decoding
    if case is None:
        return None
    golden = read_case(bundle, case, ((TOKENS, MASK, PROMPT), (_IDS, _HIGHEST, _LSE, GREEDY, MARGIN)))
    tokens, ids = golden.inputs[TOKENS], golden.outputs[_IDS]
    fits = tokens.ndim == 2 and tokens.shape[1] > _FEWEST and ids.shape[:2] == golden.inputs[MASK].shape == tokens.shape
    if not fits or ids.ndim != 3 or ids.dtype != np.int64 or ids.size == 0 or ids.min() < 0:
        raise BundleError(
            f"{case.file}: tokens of shape {tokens.shape} and logits of {ids.shape} do not go together; export again"
        )
    return golden


def readings(session: DecoderSession, golden: Golden) -> Iterator[Reading]:
    """Read the text of `golden` in every way and compare. The session is empty afterwards."""
    tokens, mask = golden.inputs[TOKENS], golden.inputs[MASK]
    for name, read in _WAYS.items():
        session.reset()
        start = time.perf_counter()
        logits = read(session, tokens, mask)
        seconds = time.perf_counter() - start
        kept = _kept(logits, golden.outputs[_IDS])
        compared = [compare_arrays(key, kept[key], golden.outputs[key], "decoder", mask != 0) for key in (_HIGHEST, _LSE)]
        yield Reading(name, tuple(compared), seconds)
    session.reset()
    start = time.perf_counter()
    yield Reading("greedy", (_greedy(session, golden),), time.perf_counter() - start)
    session.reset()


def _whole(session: DecoderSession, tokens: Ints, mask: Ints) -> Array:
    return session.prefill(tokens, mask)


def _chunks(session: DecoderSession, tokens: Ints, mask: Ints) -> Array:
    cuts = _cuts(mask)
    parts = [session.prefill(tokens[:, a:b], mask[:, a:b]) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(parts, axis=1)


def _tokens(session: DecoderSession, tokens: Ints, mask: Ints) -> Array:
    start = _padding(mask) + 1
    parts = [session.prefill(tokens[:, :start], mask[:, :start])]
    parts += [session.decode(tokens[:, i])[:, None] for i in range(start, tokens.shape[1])]
    return np.concatenate(parts, axis=1)


def _forked(session: DecoderSession, tokens: Ints, mask: Ints) -> Array:
    """Half of the way beside a fork that is given other tokens; then a fork is read, and the session is given others."""
    start = _padding(mask) + 1
    middle = (start + tokens.shape[1]) // 2
    parts = [session.prefill(tokens[:, :start], mask[:, :start])]
    parts += _beside(session.fork(), session, tokens, range(start, middle))
    parts += _beside(session, session.fork(), tokens, range(middle, tokens.shape[1]))
    return np.concatenate(parts, axis=1)


def _beside(other: DecoderSession, reader: DecoderSession, tokens: Ints, places: range) -> list[Array]:
    """The logits of `reader`, token by token. `other` writes behind it, so that what the two share is wrong from then on."""
    parts = []
    for i in places:
        parts.append(reader.decode(tokens[:, i])[:, None])
        other.decode(tokens[:, i - 1])
    return parts


_WAYS: dict[str, Callable[[DecoderSession, Ints, Ints], Array]] = {
    "whole": _whole,
    "chunks": _chunks,
    "token by token": _tokens,
    "beside a fork": _forked,
}


def _cuts(mask: Ints) -> list[int]:
    """Where chunks end: no row begins with a chunk of nothing but padding."""
    first, length = _padding(mask) + 1, mask.shape[1]
    rest = length - first
    return [0, first, first + rest // 4, first + rest // 2 + 1, length]


def _padding(mask: Ints) -> int:
    """Positions of padding in front of the shortest row."""
    return int((mask == 0).sum(axis=1).max())


def _kept(logits: Array, ids: Ints) -> dict[str, Array]:
    peak = logits.max(axis=-1, keepdims=True)
    lse = np.log(np.exp(logits - peak, dtype=np.float64).sum(axis=-1)) + peak[..., 0]
    return {_HIGHEST: np.take_along_axis(logits, ids, axis=-1), _LSE: lse.astype(np.float32)}


def _greedy(session: DecoderSession, golden: Golden) -> Comparison:
    """The likeliest token behind each of PyTorch's own, wherever PyTorch's lead is beyond the tolerance of logits."""
    expected, margin = golden.outputs[GREEDY], golden.outputs[MARGIN]
    logits, got = session.prefill(golden.inputs[PROMPT], all_logits=False)[:, -1], []
    for step, token in enumerate(expected):
        got.append(int(logits[0].argmax()))
        if step + 1 < len(expected):
            logits = session.decode([token])
    size = float(np.sqrt(np.mean(np.square(golden.outputs[_HIGHEST]))))
    clear = margin > 2 * tolerance("decoder", "float32").atol * max(1.0, size)
    return compare_arrays(GREEDY, np.array(got, dtype=np.int64), expected, "integer", clear)
