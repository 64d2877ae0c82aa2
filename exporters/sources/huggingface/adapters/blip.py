"""BLIP: the image encoder and the text model attend by hand.

Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022 (https://arxiv.org/abs/2201.12086).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.attending import attend


def image_forward(module: Any, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
    """(B, S, C) -> (B, S, C), as `BlipAttention` gives it."""
    q, k, v = module.qkv(hidden_states).unflatten(2, (3, module.num_heads, module.head_dim)).permute(2, 0, 3, 1, 4)
    context = attend(module, q, k, v, None, scaling=module.scale, is_causal=False)[0]
    return module.projection(context.flatten(2)), None


def text_forward(
    module: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(B, S, C) -> (B, S, C), as `BlipTextSelfAttention` gives it without a cache.

    The released code loses the mask on the way to cross attention, which sees all of the other sequence, padding included.
    """
    seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    mask = attention_mask if encoder_hidden_states is None else None
    shape = (module.num_attention_heads, module.attention_head_size)
    projected = (module.query(hidden_states), module.key(seen), module.value(seen))
    q, k, v = (x.unflatten(2, shape).transpose(1, 2) for x in projected)
    context = attend(module, q, k, v, mask, is_causal=False)[0]
    return context.flatten(2), None


class BlipAnswer(nn.Module):
    """Visual question answering as one forward pass: the answer's logits, which `BlipForQuestionAnswering` keeps to itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        decoder_input_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """A question with its mask (B, S), an image (B, C, H, W), the answer so far (B, A) -> logits (B, A, vocabulary)."""
        image = self.model.vision_model(pixel_values=pixel_values).last_hidden_state
        question = self.model.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=image
        ).last_hidden_state
        answer = self.model.text_decoder(input_ids=decoder_input_ids, encoder_hidden_states=question)
        return {"logits": answer.logits}


_FORWARDS = {"BlipAttention": image_forward, "BlipTextSelfAttention": text_forward}
BLIP = Adapter(tuple(_FORWARDS), replacing(_FORWARDS), interface=True)
