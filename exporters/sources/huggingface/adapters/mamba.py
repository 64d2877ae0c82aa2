"""Mamba and Falcon Mamba: any number of tokens behind the states that a cache holds, as one scan.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023 (https://arxiv.org/abs/2312.00752).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.adapters.recurrence import convolved, held, keep, reality, scanned, softplus


def _forward(
    self: Any, hidden_states: torch.Tensor, cache_params: Any = None, attention_mask: torch.Tensor | None = None, **_: Any
) -> torch.Tensor:
    """As `MambaMixer.forward`, (B, S, W) -> (B, S, W); padding in front leaves the states (B, C, K) and (B, C, N) as they were."""
    real, channels, size = reality(hidden_states, attention_mask), self.intermediate_size, self.ssm_state_size
    last, state = held(self, cache_params, hidden_states, (channels, self.conv_kernel_size), (channels, size))
    x, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
    x, last = convolved(self, last, x, real)
    step, b, c = self.x_proj(x).split([self.time_step_rank, size, size], dim=-1)
    if hasattr(self, "dt_layernorm"):  # Falcon Mamba
        step, b, c = self.dt_layernorm(step), self.b_layernorm(b), self.c_layernorm(c)
    step = softplus(self.dt_proj(step)) * real[..., None]
    y, state = scanned(state, -torch.exp(self.A_log), step, x, b, c)
    keep(self, cache_params, last, state)
    projected: torch.Tensor = self.out_proj((y + x * self.D) * silu(gate))
    return projected


MIXERS = ("MambaMixer", "FalconMambaMixer")
MAMBA = Adapter(MIXERS, replacing(dict.fromkeys(MIXERS, _forward)))
