"""Swin v2: cosine scores with a learned scale per head, a position bias from a small network, shifted windows.

Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2021 (https://arxiv.org/abs/2111.09883).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import normalize

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, changed, replacing
from edgeattn.models.functional import attention
from edgeattn.spec import SoftmaxAttention


def forward(
    module: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, output_attentions: bool | None = False
) -> tuple[torch.Tensor]:
    """Windows (B * windows, S, C) -> the same, as `Swinv2SelfAttention` gives it.

    The released code adds the mask of the shifted windows twice, which makes -200 of -100.
    """
    q, k, v = (_heads(module, layer(hidden_states)) for layer in (module.query, module.key, module.value))
    scale = torch.clamp(module.logit_scale, max=math.log(100.0)).exp()
    bias = module.edgeattn_bias
    if attention_mask is not None:
        shifted = 2 * attention_mask[:, None]
        bias = (bias + shifted).repeat(hidden_states.shape[0] // attention_mask.shape[0], 1, 1, 1)
    spec = SoftmaxAttention(module.num_attention_heads, module.num_attention_heads, q.shape[3], scale=1.0, bias=True)
    context = attention(normalize(q, dim=-1) * scale, normalize(k, dim=-1), v, spec, bias=bias)
    return (context.transpose(1, 2).flatten(2),)


def _heads(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x.view(*x.shape[:2], module.num_attention_heads, module.attention_head_size).transpose(1, 2)


@torch.no_grad()
def _position_bias(module: Any) -> torch.Tensor:
    """(1, H, S, S), a constant of the trained model: nothing in it depends on the image."""
    size = module.window_size[0] * module.window_size[1]
    table = module.continuous_position_bias_mlp(module.relative_coords_table).view(-1, module.num_attention_heads)
    bias = table[module.relative_position_index.view(-1)].view(size, size, -1).permute(2, 0, 1)
    return 16 * torch.sigmoid(bias)[None]


@contextlib.contextmanager
def _exporting(model: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__ == _CLASS:
                stack.enter_context(changed(module, "edgeattn_bias", _position_bias(module)))
        stack.enter_context(replacing({_CLASS: forward})(model))
        yield


_CLASS = "Swinv2SelfAttention"
SWINV2 = Adapter((_CLASS,), _exporting)
