"""What the mixers of recurrences share: the states in a cache, a convolution behind its last inputs, and the scan.

transformers' own mixers unroll a loop over the tokens they are given, so that a graph of them has one length, or cut the text into
blocks; Mamba's starts from a state of zeros wherever it reads more than one token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import conv1d

Pair = tuple[torch.Tensor, torch.Tensor]


def held(mixer: Any, cache: Any, like: torch.Tensor, conv: tuple[int, ...], ssm: tuple[int, ...]) -> Pair:
    """The states that `cache` holds for `mixer`, (B, *conv) and (B, *ssm), or the zeros that a text begins with."""
    layer = None if cache is None else cache.layers[mixer.layer_idx]
    if layer is not None and layer.conv_states[0] is not None:
        return layer.conv_states[0], layer.recurrent_states[0]
    return like.new_zeros(like.shape[0], *conv), like.new_zeros(like.shape[0], *ssm)


def keep(mixer: Any, cache: Any, last: torch.Tensor, state: torch.Tensor) -> None:
    """Put both states into the cache, if there is one."""
    if cache is not None:
        layer = cache.layers[mixer.layer_idx]
        layer.conv_states[0], layer.recurrent_states[0] = last, state


def convolved(mixer: Any, last: torch.Tensor, x: torch.Tensor, real: torch.Tensor) -> Pair:
    """`mixer`'s convolution and activation: x (B, S, C) behind the last inputs (B, C, K), which come back as they are now.
    Where `real` (B, S) is 0, the input is; in front of a text that is what it begins with."""
    seen = torch.cat([last, (x * real[..., None]).transpose(1, 2)], dim=-1)
    y = mixer.act(conv1d(seen[..., 1:], mixer.conv1d.weight, mixer.conv1d.bias, groups=seen.shape[1]))
    return y.transpose(1, 2), seen[..., -last.shape[-1] :]


def scanned(
    state: torch.Tensor, decay: torch.Tensor, step: torch.Tensor, x: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> Pair:
    """h_t = exp(step_t decay) h_(t-1) + step_t x_t b_t, y_t = h_t c_t: the outputs (B, S, ..., C) and the last state.

    Args:
        state: h_0, (B, ..., C, N).
        decay: (..., C, N) or (..., C, 1), below 0.
        step, x: (B, S, ..., C); a step of 0 leaves the state as it was.
        b, c: (B, S, ..., N).
    """
    from torch._higher_order_ops.scan import scan

    # the decay is handed from step to step, since OpenVINO reads no Scan whose body looks outside of itself
    def once(carried: Pair, at: tuple[torch.Tensor, ...]) -> tuple[Pair, torch.Tensor]:
        (h, decay), (step, given, b, c) = carried, at
        h = torch.exp(step * decay) * h + given * b
        return (h, decay.clone()), h @ c

    each = (step[..., None], (step * x)[..., None], b[..., None, :], c[..., None])
    (state, _), y = scan(once, (state, decay), tuple(part.transpose(0, 1) for part in each))
    return y[..., 0].transpose(0, 1), state


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) such that small values keep their digits: OpenVINO's Softplus is off by 0.3 % at -8, where a step often is."""
    small = torch.exp(-x.abs())
    return torch.relu(x) + 2 * torch.atanh(small / (2 + small))


def reality(hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """1 where a position is real, (B, S)."""
    return hidden_states.new_ones(hidden_states.shape[:2]) if mask is None else mask.to(hidden_states.dtype)
