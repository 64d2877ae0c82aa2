"""Token ids with their mask and types, for encoders and decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension
from edgeattn.exporters.sources.huggingface.inputs.base import Draw, Feed, Part
from edgeattn.exporters.sources.huggingface.pooling import read_json

TOKENS = "input_ids"
NAMES = (TOKENS, PADDING_INPUT, "token_type_ids")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_ENCODED = {TOKENS: "ids", PADDING_INPUT: "attention_mask", "token_type_ids": "type_ids"}
"""Input -> attribute of an encoding of the `tokenizers` package."""


def text(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """Random token ids; the mask is ones (the source pads it), token types are drawn from all there are."""
    config = model.config.get_text_config()
    types = getattr(config, "type_vocab_size", None) or 0
    draws = {
        TOKENS: integers(int(config.vocab_size)),
        PADDING_INPUT: lambda sizes, _: torch.ones((sizes["batch"], sizes["sequence"]), dtype=torch.int64),
        "token_type_ids": integers(types),
    }
    chosen = [name for name in names if name != "token_type_ids" or types]
    limit = longest(model)
    return Part(
        feeds={name: Feed(draws[name], {0: "batch", 1: "sequence"}) for name in chosen},
        dimensions=(Dimension("batch", batch=True), Dimension("sequence", limit=limit)),
        files={f"tokenizer/{name}": folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()},
        settings=_tokenizer(folder, chosen, limit),
    )


def integers(count: int, length: str = "sequence") -> Draw:
    """Draws (B, S) numbers below `count`; `length` names the second axis."""

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        return torch.randint(count, (sizes["batch"], sizes[length]), generator=generator)

    return draw


def longest(model: Any) -> int | None:
    """The most positions the model takes. The RoBERTa family counts them from behind its padding index."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def _tokenizer(folder: Path, inputs: list[str], limit: int | None) -> dict[str, Any]:
    """How `edgeattn run --text` makes feeds; empty without a tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    path = folder / "sentence_bert_config.json"
    settings = read_json(path) if path.is_file() else {}
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return {
        "file": "tokenizer/tokenizer.json",
        "max_length": length or limit or 512,
        "inputs": {name: _ENCODED[name] for name in inputs},
    }
