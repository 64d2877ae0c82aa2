"""Falcon: attention by hand, with rotary positions or with ALiBi, whose bias is computed in bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, changed, replacing
from edgeattn.exporters.sources.huggingface.attending import attend


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    layer_past: Any = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As `FalconAttention.forward`, with shared keys and values left shared."""
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    q, k, v = (part.transpose(1, 2) for part in _heads(self, self.query_key_value(hidden_states)))
    bias = None
    if alibi is not None:
        bias = alibi.view(hidden_states.shape[0], self.num_heads, 1, -1) * self.inv_norm_factor
    elif position_embeddings is not None:
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    if layer_past is not None:
        k, v = layer_past.update(*_as_cached(layer_past, self.layer_idx, k, v), self.layer_idx)
    context = attend(self, q, k, v, attention_mask, scaling=self.inv_norm_factor, is_causal=True, position_bias=bias)[0]
    return self.dense(context.flatten(2)), None


def _heads(self: Any, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, S, all) -> q (B, S, H, D), k, v (B, S, K, D)."""
    if not self.new_decoder_architecture:
        parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self._split_heads(fused)
        return parts
    groups = fused.view(*fused.shape[:2], self.num_kv_heads, -1, self.head_dim)
    return groups[:, :, :, :-2].flatten(2, 3), groups[:, :, :, -2], groups[:, :, :, -1]


def _as_cached(cache: Any, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """k, v (B, K, S, D) with the heads that the model's own cache has: it repeats shared ones."""
    held = getattr(cache.layers[layer], "keys", None) if layer < len(cache.layers) else None
    times = 1 if held is None else held.shape[1] // k.shape[1]
    return k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)


def _alibi(attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """As `build_alibi_tensor`: the product rounded to bfloat16, in which runtimes cannot multiply."""
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    positions: torch.Tensor = (attention_mask.cumsum(dim=-1) - 1) * attention_mask
    slopes: torch.Tensor = _get_alibi_slopes(num_heads, attention_mask.device)
    product = slopes[None, :, None].bfloat16().float() * positions[:, None, :].bfloat16().float()
    # with the mask's own length: flatten(0, 1) would take it from the shape of the past, which no shared buffer has
    return product.bfloat16().to(dtype).reshape(-1, 1, attention_mask.shape[-1])


@contextlib.contextmanager
def _exporting(model: Any) -> Iterator[None]:
    from transformers.models.falcon import modeling_falcon

    with replacing({"FalconAttention": _forward})(model), changed(modeling_falcon, "build_alibi_tensor", _alibi):
        yield


FALCON = Adapter(("FalconAttention",), _exporting, interface=True)
