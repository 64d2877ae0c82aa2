"""Which positions of an output are real. Those of padding are left out of every comparison: nothing is promised for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeattn.manifest import KEEP, LOGITS, TOKENS, OutputInfo, TensorInfo
from edgeattn.parity import Array, Mask


def valid_positions(output: OutputInfo, padding: TensorInfo | None, feeds: Mapping[str, Array]) -> Mask | None:
    """Which positions of `output` are real, for its leading axes, or None where padding does not concern it.

    An output is concerned when its leading dims are those of the padding input (batch, sequence), the last of them by
    a symbol: a fixed size alone could be any axis. Of a cache, (B, K, T, D), the third is. A decoder's logits are those
    of the positions that were asked for, counted from the first new one.
    """
    if padding is None or not padding.dims or padding.name not in feeds or not isinstance(padding.dims[-1], str):
        return None
    mask: Mask = np.asarray(feeds[padding.name]).astype(bool)
    rows, length = padding.dims[0], padding.dims[-1]
    if output.dims[: len(padding.dims)] == padding.dims:
        return mask
    if output.name == LOGITS and KEEP in feeds:
        return np.asarray(mask[:, mask.shape[1] - feeds[TOKENS].shape[1] :][:, feeds[KEEP]])
    heads = output.dims[1] if len(output.dims) == 4 and (output.dims[0], output.dims[2]) == (rows, length) else None
    if isinstance(heads, int) and isinstance(output.dims[3], int):
        return np.repeat(mask[:, None], heads, axis=1)
    return None
