"""DeBERTa-v2: attention by hand, its disentangled scores (content to position, position to content) as a bias.

He et al., "DeBERTa", 2020 (https://arxiv.org/abs/2006.03654).
"""

from __future__ import annotations

from typing import Any

import torch

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.models.functional import attention
from edgeattn.spec import SoftmaxAttention


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    output_attentions: bool = False,
    query_states: torch.Tensor | None = None,
    relative_pos: torch.Tensor | None = None,
    rel_embeddings: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """As `DisentangledSelfAttention.forward`; its mask (B, 1, S, S) hides padded queries too, which nobody reads."""
    heads, size = self.num_attention_heads, self.attention_head_size
    given = (hidden_states if query_states is None else query_states, hidden_states, hidden_states)
    flat = [
        self.transpose_for_scores(project(x), heads)
        for project, x in zip((self.query_proj, self.key_proj, self.value_proj), given, strict=True)
    ]
    q, k, v = (x.unflatten(0, (-1, heads)) for x in flat)
    factor = 1 + sum(kind in self.pos_att_type for kind in ("c2p", "p2c"))
    bias = None
    if self.relative_attention:
        bias = self.disentangled_attention_bias(flat[0], flat[1], relative_pos, rel_embeddings, factor).unflatten(
            0, (-1, heads)
        )
    spec = SoftmaxAttention(heads, heads, size, scale=(size * factor) ** -0.5, mask="key_padding", bias=bias is not None)
    real = torch.diagonal(attention_mask[:, 0], dim1=-2, dim2=-1).bool()
    context = attention(q, k, v, spec, mask=real, bias=bias)
    return context.transpose(1, 2).flatten(2), None


# the first DeBERTa has another module of this name, inside one of another name
DEBERTA_V2 = Adapter(("DebertaV2Attention",), replacing({"DisentangledSelfAttention": _forward}))
