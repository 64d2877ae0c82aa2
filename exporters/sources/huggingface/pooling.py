"""sentence-transformers' pooling as its folders declare it: masked mean, then unit length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeattn.errors import SourceError

_MODULES = ("Transformer", "Pooling", "Normalize")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises SourceError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error


def reads_pooling(folder: Path) -> bool:
    """Whether `folder` declares Transformer, mean Pooling, Normalize. Raises SourceError for another declared chain."""
    path = folder / "modules.json"
    if not path.is_file():
        return False
    try:
        chain = [str(module["type"]).rpartition(".")[2] for module in read_json(path)]
    except (TypeError, KeyError) as error:
        raise SourceError(f'{path} must be a list of modules, each with a "type"') from error
    pooling = folder / "1_Pooling" / "config.json"
    config = read_json(pooling) if pooling.is_file() else {}
    modes = sorted(key for key, value in config.items() if key.startswith("pooling_mode_") and value)
    if tuple(chain) != _MODULES or modes != ["pooling_mode_mean_tokens"]:
        raise SourceError(
            f"{folder}: pooling {' -> '.join(chain)} with {', '.join(modes) or 'no mode'} is not understood; "
            f"expected {' -> '.join(_MODULES)} with pooling_mode_mean_tokens"
        )
    return True


class SentenceEmbedding(nn.Module):
    """An encoder with `last_hidden_state` (B, T, C) and the mean over real positions at unit length (B, C)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.model = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Token ids, mask (1 real, 0 padding) and types, all (B, T)."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        weights = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return {"last_hidden_state": hidden, "sentence_embedding": nn.functional.normalize(mean, dim=-1)}
