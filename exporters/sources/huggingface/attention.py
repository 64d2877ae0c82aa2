"""transformers' attention *and* mask interfaces: every modern model's attention arrives as a spec, padding included.

Both must be registered: with the attention alone, transformers passes no mask at all and padding silently takes part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from edgeattn.errors import CaptureError
from edgeattn.exporters.sources.huggingface.adapters.registry import adapters
from edgeattn.models.functional import attention
from edgeattn.spec import Causal, Full, Pattern, SlidingWindow, SoftmaxAttention

NAME = "edgeattn"


@contextlib.contextmanager
def exporting(model: Any) -> Iterator[None]:
    """While open, `model` attends through edgeattn; afterwards with its own attention again."""
    found = adapters(model)
    with contextlib.ExitStack() as stack:
        if not found or any(adapter.interface for adapter in found):
            stack.enter_context(_through_interface(model))
        for adapter in found:
            stack.enter_context(adapter.exporting(model))
        yield


@contextlib.contextmanager
def _through_interface(model: Any) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, key_padding)
    before = model.config._attn_implementation
    try:
        _switch(model)
        yield
    finally:
        model.set_attn_implementation(before)


def _switch(model: Any) -> None:
    refused: Exception | None = None
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:  # how transformers refuses a model that does its own attention
        refused = error
    if refused is not None or model.config._attn_implementation != NAME:
        raise CaptureError(
            f"{type(model).__name__} does not attend through transformers' interface; no adapter for it exists yet"
        ) from refused


def key_padding(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> torch.Tensor | None:
    """The mask as the model got it, bool (B, T); causal and window are the spec's, not the mask's."""
    return None if attention_mask is None else attention_mask.to(torch.bool)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: q (B, H, S, D), k, v (B, K, T, D) -> (B, S, H, D)."""
    spec = SoftmaxAttention(
        q_heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=query.shape[3],
        value_head_dim=value.shape[3],
        scale=scaling or 0.0,
        pattern=_pattern(bool(getattr(module, "is_causal", False) if is_causal is None else is_causal), sliding_window),
        softcap=softcap,
        mask="none" if attention_mask is None else "key_padding",
        bias=position_bias is not None,
        sink=s_aux is not None,
    )
    context = attention(query, key, value, spec, mask=attention_mask, bias=position_bias, sink=s_aux)
    return context.transpose(1, 2), None


def _pattern(causal: bool, window: int | None) -> Pattern:
    """transformers counts the window as flash attention does: the reach to each side, the position itself included."""
    if window is None:
        return Causal() if causal else Full()
    return SlidingWindow(left=window - 1, right=0 if causal else window - 1)
