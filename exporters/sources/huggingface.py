"""A local Hugging Face encoder folder: config.json, safetensors weights, tokenizer. Nothing is downloaded or executed.

A folder that sentence-transformers wrote (modules.json) also gives `sentence_embedding`, pooled as it declares.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension, Sampler, Source
from edgeattn.exporters.sources.pooling import SentenceEmbedding, read_json, reads_pooling
from edgeattn.exporters.sources.transformers_attention import exporting
from edgeattn.tolerance import OutputClass

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_INPUTS = ("input_ids", PADDING_INPUT, "token_type_ids")
_LENGTH = 16
"""Sequence length of the example; the graph is dynamic."""


def from_folder(folder: Path) -> Source:
    """The source of a model folder.

    Raises:
        SourceError: transformers is missing, the folder lacks a file, or it is not an encoder.
    """
    config = _config(folder)
    model = _load(folder, config)
    pooling = reads_pooling(folder)
    module = SentenceEmbedding(model) if pooling else model
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in _INPUTS if name in accepted]
    if "input_ids" not in names:
        raise SourceError(
            f"{folder}: {config['architectures'][0]} takes no input_ids; only text encoders are understood so far"
        )
    sampler = _sampler(names, int(model.config.vocab_size), int(getattr(model.config, "type_vocab_size", 1)))
    limit = _longest(model)
    dimensions = {"batch": Dimension("batch", batch=True), "sequence": Dimension("sequence", limit=limit)}
    classes: dict[str, OutputClass] = {"sentence_embedding": "normalized"} if pooling else {}
    inputs = sampler({"batch": 2, "sequence": _LENGTH}, torch.Generator().manual_seed(0))
    return Source(
        name=folder.name,
        kind="huggingface",
        module=module.eval(),
        inputs=inputs,
        dynamic={name: {0: "batch", 1: "sequence"} for name in inputs},
        dimensions=dimensions,
        output_classes=classes,
        exporting=lambda: exporting(model),
        sampler=sampler,
        files={f"tokenizer/{name}": folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()},
        tokenizer=_tokenizer(folder, list(inputs), limit),
        provenance={"architecture": config["architectures"][0], "weights": _weights(folder).name},
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(f"{folder} has no config.json; a Hugging Face folder holds config.json and *.safetensors")
    config = read_json(path)
    if not isinstance(config, dict):
        raise SourceError(f"{path} must hold a JSON object, got {type(config).__name__}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise SourceError(f'{path} names no architecture; add "architectures": ["<class of transformers>"]')
    _weights(folder)
    return dict(config)


def _weights(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found[0]
    pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
    if pickled is not None:
        raise SourceError(
            f"{folder} has only pickled weights ({pickled.name}), which can run code when loaded; "
            "convert them to model.safetensors with safetensors.torch.save_file"
        )
    raise SourceError(f"{folder} has no weights: no *.safetensors file")


def _load(folder: Path, config: dict[str, Any]) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SourceError('a Hugging Face folder needs transformers; fix: pip install "edgeattn[hf]"') from error
    name = config["architectures"][0]
    cls = getattr(transformers, name, None)
    if cls is None:
        raise SourceError(f"transformers {transformers.__version__} has no architecture {name!r}; remote code is not run")
    if (
        config.get("is_encoder_decoder")
        or config.get("is_decoder")
        or name.endswith(("ForCausalLM", "ForConditionalGeneration"))
    ):
        raise SourceError(f"{folder}: {name} is a decoder; only encoders are understood so far")
    transformers.utils.logging.disable_progress_bar()
    try:
        model = cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except Exception as error:
        raise SourceError(f"{folder}: transformers cannot load {name}: {error}") from error
    if hasattr(model.config, "return_dict"):
        model.config.return_dict = True
    return model.eval()


def _longest(model: Any) -> int | None:
    """The most positions the model takes. The RoBERTa family counts them from behind its padding index."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def _sampler(names: list[str], vocabulary: int, types: int) -> Sampler:
    """Random token ids; the mask is ones (the source pads it), token types are drawn from all there are."""

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        shape = (sizes["batch"], sizes["sequence"])
        makers = {
            "input_ids": lambda: torch.randint(vocabulary, shape, generator=generator),
            PADDING_INPUT: lambda: torch.ones(shape, dtype=torch.int64),
            "token_type_ids": lambda: torch.randint(max(1, types), shape, generator=generator),
        }
        return {name: makers[name]() for name in names}

    return draw


def _tokenizer(folder: Path, inputs: list[str], limit: int | None) -> dict[str, Any]:
    """How `edgeattn run --text` makes feeds; empty without a tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    path = folder / "sentence_bert_config.json"
    settings = read_json(path) if path.is_file() else {}
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    parts = {"input_ids": "ids", PADDING_INPUT: "attention_mask", "token_type_ids": "type_ids"}
    return {
        "file": "tokenizer/tokenizer.json",
        "max_length": length or limit or 512,
        "inputs": {name: parts[name] for name in inputs},
    }
