"""Mamba 2: H heads of size P, each with one decay, and inputs and outputs of the state shared by the heads of a group.

Dao and Gu, "Transformers are SSMs", 2024 (https://arxiv.org/abs/2405.21060).
"""

from __future__ import annotations

from typing import Any

import torch

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.adapters.recurrence import convolved, held, keep, reality, scanned, softplus


def _forward(
    self: Any, hidden_states: torch.Tensor, cache_params: Any = None, attention_mask: torch.Tensor | None = None, **_: Any
) -> torch.Tensor:
    """As `Mamba2Mixer.forward`, (B, S, W) -> (B, S, W); padding in front leaves the states (B, C, K) and (B, H, P, N) as they
    were."""
    real, size, groups = reality(hidden_states, attention_mask), self.ssm_state_size, self.n_groups
    last, state = held(
        self,
        cache_params,
        hidden_states,
        (self.conv_dim, self.conv_kernel_size),
        (self.num_heads, self.head_dim, size),
    )
    gate, x, step = self.in_proj(hidden_states).split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
    x, last = convolved(self, last, x, real)
    x, b, c = torch.split(x, [self.intermediate_size, groups * size, groups * size], dim=-1)
    step = softplus(step + self.dt_bias) * real[..., None]

    y, after = scanned(
        state.reshape(state.shape[0], groups, -1, size),
        -torch.exp(self.A_log).repeat_interleave(self.head_dim).reshape(groups, -1, 1),
        *(_grouped(part, groups) for part in (step.repeat_interleave(self.head_dim, dim=-1), x, b, c)),
    )
    keep(self, cache_params, last, after.reshape(state.shape))
    y = y.flatten(-2) + x * self.D.repeat_interleave(self.head_dim)
    projected: torch.Tensor = self.out_proj(self.norm(y, gate))
    return projected


def _grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(B, S, G * C) -> (B, S, G, C)."""
    return x.reshape(*x.shape[:2], groups, -1)


MIXER = "Mamba2Mixer"
MAMBA2 = Adapter((MIXER,), replacing({MIXER: _forward}))
