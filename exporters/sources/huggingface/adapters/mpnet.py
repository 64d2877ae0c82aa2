"""MPNet: attention by hand, with one relative position bias for all layers."""

from __future__ import annotations

from typing import Any

import torch

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.attending import attend


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[torch.Tensor]:
    """As `MPNetSelfAttention.forward`."""
    shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
    q, k, v = (project(hidden_states).view(shape).transpose(1, 2) for project in (self.q, self.k, self.v))
    context = attend(self, q, k, v, attention_mask, is_causal=False, position_bias=position_bias)[0]
    return (self.o(context.flatten(2)),)


MPNET = Adapter(("MPNetSelfAttention",), replacing({"MPNetSelfAttention": _forward}), interface=True)
