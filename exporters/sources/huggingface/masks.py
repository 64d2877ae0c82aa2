"""transformers' masks as what they mean: a pattern by position, and padding.

A model asks for its masks by a function of (query, key) position. One that depends on positions alone becomes a pattern
of the spec; anything else (packed documents, chunks behind left padding, image tokens that see each other) a dense mask.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgeattn.errors import CaptureError
from edgeattn.spec import Causal, Full, SlidingWindow

MaskFunction = Callable[..., torch.Tensor]
"""(batch, head, query, key) indices that broadcast -> bool: whether the query sees the key."""

Positional = Full | Causal | SlidingWindow
"""What a function of positions can be recognised as."""

_FAR = 1 << 16
"""A query in the middle of twice as many keys: its outermost visible ones tell the window."""
_DENSE = 256
_ROWS = (_DENSE, 1000, _FAR // 3, _FAR + 1, 2 * _FAR - 1)
_NOTE = "edgeattn_seen"
"""Attribute of a mask tensor."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a mask says: `pattern` by position; `padded` when the tensor itself, bool (B, T), marks real keys."""

    pattern: Positional
    padded: bool


def described_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction | None = None,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> torch.Tensor:
    """transformers' mask interface: bool (B, T) with a `Seen`, else a dense bool (B, 1, S, T).

    Raises:
        CaptureError: a mask that is neither a pattern nor can be traced; it names the function.
    """
    from transformers import masking_utils

    function = mask_function or masking_utils.causal_mask_function
    at_start = isinstance(q_offset, int) and isinstance(kv_offset, int) and q_offset == kv_offset == 0
    pattern = recognise(function) if at_start or _behind_cache(q_length, kv_length, q_offset, kv_offset) else None
    if pattern is not None and not at_start and not isinstance(pattern, Full):
        pattern = replace(pattern, alignment="lower_right")
    if pattern is not None:
        seen = Seen(pattern, attention_mask is not None)
        # without padding a stand-in, since None could not carry the note; nothing reads its values
        mask = (
            torch.ones((batch_size, kv_length), dtype=torch.bool) if attention_mask is None else attention_mask.to(torch.bool)
        )
        return _noted(mask, seen)
    skip = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    try:
        dense: torch.Tensor = masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, function, attention_mask, device=device, **{**options, **skip}
        )
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise CaptureError(
            f"the mask function {name} of {getattr(function, '__module__', '?')} is no causal, bidirectional or sliding window "
            f"pattern, and cannot be traced into a dense mask: {type(error).__name__}: {error}"
        ) from error
    return dense


def _behind_cache(q_length: Any, kv_length: Any, q_offset: Any, kv_offset: Any) -> bool:
    """Whether the queries are the last of the keys, whatever is in the cache."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return isinstance(kv_offset, int) and kv_offset == 0 and bool(statically_known_true(kv_length == q_offset + q_length))


def seen(mask: torch.Tensor) -> Seen | None:
    """What `described_mask` noted on exactly this tensor."""
    return getattr(mask, _NOTE, None)


def recognise(function: MaskFunction) -> Positional | None:
    """The pattern of a function that depends on the two positions alone; None for any other.

    It is evaluated on a thread of its own, which no tracing mode follows: a function that needs the model's tensors
    fails there, or gives something without values.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            return pool.submit(_recognise, function).result()
        except Exception:  # noqa: BLE001 - whatever it needs beyond positions; the caller makes it dense
            return None


def _recognise(function: MaskFunction) -> Positional | None:
    keys = torch.arange(2 * _FAR)
    row = _shown(function, torch.tensor([_FAR]), keys)
    if row is None or not row.any():
        return None
    first, last = int(keys[row[0]].min()), int(keys[row[0]].max())
    left = None if first == 0 else _FAR - first
    right = None if last == 2 * _FAR - 1 else last - _FAR
    near = torch.arange(_DENSE)
    for queries, positions in ((near, near), (torch.tensor(_ROWS), keys)):
        shown = _shown(function, queries, positions)
        if shown is None or not torch.equal(shown, _window(queries, positions, left, right)):
            return None
    if left is None and right is None:
        return Full()
    return Causal() if left is None and right == 0 else SlidingWindow(left, right)


def _shown(function: MaskFunction, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor | None:
    """(S, T) bool for two rows of a batch and two heads at once; None where these differ, or have no values."""
    batch = torch.arange(2)
    shown = function(batch[:, None, None, None], batch[None, :, None, None], queries[None, None, :, None], keys)
    if type(shown) is not torch.Tensor or bool((shown != shown[:1, :1]).any()):
        return None
    return shown.expand(2, 2, len(queries), len(keys))[0, 0]


def _window(queries: torch.Tensor, keys: torch.Tensor, left: int | None, right: int | None) -> torch.Tensor:
    distance = keys - queries[:, None]
    shown = torch.ones_like(distance, dtype=torch.bool)
    if left is not None:
        shown &= distance >= -left
    return shown if right is None else shown & (distance <= right)


def _noted(mask: torch.Tensor, note: Seen) -> torch.Tensor:
    """A tensor of its own, since a model may ask for several masks over one padding."""
    own = mask.clone()
    setattr(own, _NOTE, note)
    return own
