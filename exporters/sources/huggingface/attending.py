"""transformers' attention interface: one attention of a model, as a spec and its inputs."""

from __future__ import annotations

from typing import Any

import torch

from edgeattn.errors import CaptureError
from edgeattn.exporters.sources.huggingface.masks import Seen, seen
from edgeattn.models.functional import attention
from edgeattn.spec import Causal, Full, MaskKind, SoftmaxAttention


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    causal_flag: bool = True,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """q (B, H, S, D), k, v (B, K, T, D) -> (B, S, H, D), visible as the mask says.

    `causal_flag`: whether, without any mask, the module's `is_causal` counts, as it does for torch's own attention and
    does not for transformers' eager one. `sliding_window` of transformers is left out: its masks hold the window.

    Raises:
        CaptureError: a mask of a form that no attention of transformers takes.
    """
    flagged = getattr(module, "is_causal", True) if is_causal is None else is_causal
    note, mask, added = _read(module, attention_mask, causal_flag and bool(flagged))
    bias = position_bias if added is None else added if position_bias is None else position_bias + added
    kind: MaskKind = "none" if mask is None else "key_padding" if note.padded else "dense"
    spec = SoftmaxAttention(
        q_heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=query.shape[3],
        value_head_dim=value.shape[3],
        scale=scaling or 0.0,
        pattern=note.pattern,
        softcap=softcap,
        mask=kind,
        bias=bias is not None,
        sink=s_aux is not None,
    )
    context = attention(query, key, value, spec, mask=mask, bias=bias, sink=s_aux)
    return context.transpose(1, 2), None


def _read(
    module: torch.nn.Module, mask: torch.Tensor | None, causal: bool
) -> tuple[Seen, torch.Tensor | None, torch.Tensor | None]:
    """What is seen, the mask and the bias that a mask of transformers stands for."""
    if mask is None:
        return Seen(Causal() if causal else Full(), False), None, None
    if (note := seen(mask)) is not None:
        return note, mask if note.padded else None, None
    if mask.dim() != 4:
        raise CaptureError(
            f"{type(module).__name__} got a mask of shape {list(mask.shape)} that it did not get from transformers' mask "
            "interface; expected four axes (batch, heads, queries, keys)"
        )
    return (Seen(Full(), False), mask, None) if mask.dtype == torch.bool else (Seen(Full(), False), None, mask)
