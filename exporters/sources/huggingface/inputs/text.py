"""Token ids with their mask and types, for encoders and decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension, padded_mask
from edgeattn.exporters.sources.huggingface.inputs.base import Draw, Feed, Part
from edgeattn.exporters.sources.huggingface.pooling import read_json
from edgeattn.manifest import TOKENS

NAMES = (TOKENS, PADDING_INPUT, "token_type_ids")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_ENCODED = {TOKENS: "ids", PADDING_INPUT: "attention_mask", "token_type_ids": "type_ids"}
"""Input -> attribute of an encoding of the `tokenizers` package."""


def text(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """Random tokens, padded at the end and at the front; token types are drawn from all there are."""
    config = model.config.get_text_config()
    types = getattr(config, "type_vocab_size", None) or 0
    draws = {
        TOKENS: _tokens(int(config.vocab_size), getattr(config, "pad_token_id", None), PADDING_INPUT in names),
        PADDING_INPUT: lambda sizes, _: padding(sizes["batch"], sizes["sequence"]),
        "token_type_ids": integers(types),
    }
    chosen = [name for name in names if name != "token_type_ids" or types]
    limit = longest(model)
    return Part(
        feeds={name: Feed(draws[name], {0: "batch", 1: "sequence"}) for name in chosen},
        dimensions=(Dimension("batch", batch=True), Dimension("sequence", limit=limit)),
        files=tokenizer_files(folder),
        settings=tokenizer_settings(folder, model, chosen, limit),
    )


def tokenizer_files(folder: Path) -> dict[str, Path | bytes]:
    """Bundle path -> file of the tokenizer."""
    return {f"tokenizer/{name}": folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()}


def padding(batch: int, length: int) -> torch.Tensor:
    """As `padded_mask`, with the padding of every second row in front: where a causal query would see it."""
    mask = padded_mask(torch.ones((batch, length), dtype=torch.int64))
    front = 1 if batch > 1 else 0
    mask[front::2] = mask[front::2].flip(1)
    return mask


def _tokens(count: int, pad: int | None, masked: bool) -> Draw:
    """Draws (B, S) token ids; the padding token stands where there is padding, and nowhere else."""

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        shape = (sizes["batch"], sizes["sequence"])
        if pad is None or not 0 <= pad < count or count == 1:
            return torch.randint(count, shape, generator=generator)
        real = (torch.randint(count - 1, shape, generator=generator) + pad + 1) % count
        return torch.where(padding(*shape) == 1, real, pad) if masked else real

    return draw


def integers(count: int, length: str = "sequence") -> Draw:
    """Draws (B, S) numbers below `count`; `length` names the second axis."""

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        return torch.randint(count, (sizes["batch"], sizes[length]), generator=generator)

    return draw


def longest(model: Any) -> int | None:
    """The most positions the model takes. The RoBERTa family counts them from behind its padding index."""
    config = model.config.get_text_config()
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    limit = next((number for number in limits if number is not None and number > 0), None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def tokenizer_settings(folder: Path, model: Any, inputs: Sequence[str], limit: int | None) -> dict[str, Any]:
    """How `edgeattn run --text` makes feeds; empty without a tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    _check_vocabulary(folder / "tokenizer.json", model)
    path = folder / "sentence_bert_config.json"
    settings = read_json(path) if path.is_file() else {}
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return {
        "file": "tokenizer/tokenizer.json",
        "max_length": length or limit or 512,
        "inputs": {name: _ENCODED[name] for name in inputs},
    }


def _rows(model: Any) -> int:
    """How many tokens the model embeds; a model of texts and images may not say where it does so."""
    try:
        return int(model.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        return int(model.config.get_text_config().vocab_size)


def _check_vocabulary(path: Path, model: Any) -> None:
    """Raise SourceError for a tokenizer that gives ids the model has no embedding for."""
    from tokenizers import Tokenizer

    try:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises no narrower type
        raise SourceError(f"{path} cannot be read as a tokenizer: {error}") from error
    rows = _rows(model)
    token = max(vocabulary, key=vocabulary.__getitem__, default=None)
    if token is not None and vocabulary[token] >= rows:
        raise SourceError(
            f"{path} does not match the model: it gives ids up to {vocabulary[token]} ({token!r}), and the model embeds {rows} "
            "tokens; use the tokenizer that the model was trained with, or model.resize_token_embeddings"
        )
