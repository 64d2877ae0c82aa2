"""BLOOM: attention by hand, with ALiBi as a bias (B * H, 1, T).

Press et al., "Train Short, Test Long", 2021 (https://arxiv.org/abs/2108.12409).
"""

from __future__ import annotations

from typing import Any

import torch

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.attending import attend


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer_past: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As `BloomAttention.forward`."""
    q, k, v = self._reshape(self.query_key_value(hidden_states))
    if layer_past is not None:
        k, v = layer_past.update(k, v, self.layer_idx)
    bias = self.beta * alibi.view(hidden_states.shape[0], self.num_heads, 1, -1)
    context = attend(self, q, k, v, attention_mask, scaling=self.inv_norm_factor, is_causal=True, position_bias=bias)[0]
    return self.dense(context.flatten(2)) + residual, None


BLOOM = Adapter(("BloomAttention",), replacing({"BloomAttention": _forward}), interface=True)
