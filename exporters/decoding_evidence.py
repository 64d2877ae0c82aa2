"""What PyTorch says of a text without any cache, which a decoder's flavours are held to in every way of reading it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeattn.decoding.evidence import GREEDY, MARGIN, PROMPT, summary
from edgeattn.decoding.session import MASK
from edgeattn.golden import Golden
from edgeattn.manifest import TOKENS

WholePass = Callable[[torch.Tensor], torch.Tensor]
"""Tokens (1, S) -> logits (1, S, V), without a cache."""
NAME = "decoding"
_LENGTH, _SHORT = 48, 29
"""Tokens of the two rows, the second with padding in front."""
_PROMPT, _NEW = 8, 64


def decoding_evidence(whole_pass: WholePass, limit: int | None) -> Golden:
    """Random tokens in two rows of unequal length, their logits, and what follows a prompt if the likeliest token is
    always taken; shorter where the model takes fewer than `limit` positions."""
    length = min(_LENGTH, limit or _LENGTH)
    short = max(1, length * _SHORT // _LENGTH)
    new = max(1, min(_NEW, (limit or _NEW + _PROMPT) - _PROMPT))
    draw = torch.Generator().manual_seed(7)
    with torch.inference_mode():
        vocabulary = whole_pass(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
    tokens = torch.randint(vocabulary, (2, length), generator=draw)
    mask = torch.ones_like(tokens)
    mask[1, : length - short] = 0
    with torch.inference_mode():
        rows = [whole_pass(tokens[:1]), whole_pass(tokens[1:, length - short :])]
        logits = torch.zeros(2, length, rows[0].shape[-1])
        logits[0], logits[1, length - short :] = rows[0][0], rows[1][0]
        prompt = tokens[:1, :_PROMPT]
        greedy, margins = _greedy(whole_pass, prompt, new)
    inputs = {TOKENS: tokens.numpy(), MASK: mask.numpy(), PROMPT: prompt.numpy()}
    outputs = {**summary(logits.numpy()), GREEDY: greedy, MARGIN: margins}
    sizes = {"batch": 2, "sequence": length}
    return Golden(NAME, sizes, inputs, outputs, {}, {name: array.shape for name, array in outputs.items()})


def _greedy(whole_pass: WholePass, prompt: torch.Tensor, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    text, margins = prompt, []
    for _ in range(count):
        best = whole_pass(text)[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        text = torch.cat([text, best.indices[:1][None]], dim=1)
    return text[0, prompt.shape[1] :].numpy(), np.array(margins, dtype=np.float32)
