"""A decoder whose mixers are recurrences: its states stay of one size, and are all that it knows of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.decoding.session import MASK, DecoderSession, Floats, Ints, Read
from edgeattn.errors import FeedError
from edgeattn.manifest import KEEP, TOKENS, past_state_names, present_state_names, state_layers


class RecurrentSession(DecoderSession):
    """B sequences, each as its states. Padding is in front of a row's first token alone: behind it, a state would take it for
    tokens."""

    def _carried(self, names: Sequence[str]) -> dict[str, str]:
        layers = state_layers(names)
        return dict(zip(present_state_names(layers), past_state_names(layers), strict=True))

    def _feeds(self, new: Ints, read: Read, kept: Ints) -> dict[str, NDArray[Any]]:
        if (np.diff(read.mask, axis=1) < 0).any():
            raise FeedError(
                "got padding behind a token: a recurrence has no place for it; give padding in front of each row's first token, "
                "all of it in the first chunk"
            )
        return {TOKENS: new, MASK: np.ascontiguousarray(read.mask[:, -new.shape[1] :]), KEEP: kept}

    def _advance(self, new: Ints, real: Ints, kept: Ints) -> Floats:
        logits = super()._advance(new, real, kept)
        self._read = self._read.last(1)  # no step needs more, and a text may be long
        return logits
