"""Reads a model folder into a source: checks it, loads it with transformers, puts its inputs together.

A folder that sentence-transformers wrote (modules.json) also gives `sentence_embedding`, pooled as it declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgeattn.exporters.sources.base import Sampler, Source
from edgeattn.exporters.sources.huggingface.adapters.registry import task
from edgeattn.exporters.sources.huggingface.attention import exporting
from edgeattn.exporters.sources.huggingface.cached import cached_source
from edgeattn.exporters.sources.huggingface.chat import Chat, chat_of, generation_settings
from edgeattn.exporters.sources.huggingface.encoder_decoder import encoder_decoder_source
from edgeattn.exporters.sources.huggingface.inputs import decoder
from edgeattn.exporters.sources.huggingface.inputs.base import Feed, Part
from edgeattn.exporters.sources.huggingface.inputs.registry import parts
from edgeattn.exporters.sources.huggingface.inputs.settings import gathered
from edgeattn.exporters.sources.huggingface.inputs.text import tokenizer_files, tokenizer_settings
from edgeattn.exporters.sources.huggingface.loading import load, read_config, tensors_only, weights_file
from edgeattn.exporters.sources.huggingface.pooling import SentenceEmbedding, reads_pooling
from edgeattn.tolerance import OutputClass

_EXAMPLE = 16
"""Size of the example along an axis that varies; the graph is dynamic."""


def from_folder(folder: Path, cache: bool = False) -> Source:
    """The source of a model folder; `cache` gives a causal language model, or an encoder-decoder's decoder, its key/value
    cache as inputs and outputs.

    Raises:
        SourceError: transformers is missing, the folder lacks a file, or nothing is known about the model's inputs.
    """
    config = read_config(folder)
    model = load(folder, config)
    fed = parts(folder, model)
    provenance = {"architecture": config["architectures"][0], "weights": weights_file(folder).name}
    if cache and any(decoder.TOKENS in part.feeds for part in fed):
        return _halves(folder, model, fed, provenance)
    if cache:
        return cached_source(model, folder.name, "huggingface", fed[0], provenance, chat_of(folder))
    return whole_source(model, folder.name, "huggingface", fed, provenance, pooling=reads_pooling(folder))


def _halves(folder: Path, model: Any, fed: Sequence[Part], provenance: dict[str, str]) -> Source:
    """An encoder-decoder as its two halves."""
    tokens = next(part for part in fed if decoder.TOKENS in part.feeds)
    encoder = whole_source(model, folder.name, "huggingface", [part for part in fed if part is not tokens], provenance)
    encoder.files.update(tokenizer_files(folder))
    reads = tokenizer_settings(folder, model, (), None)
    reads.pop("inputs", None)  # text goes to the encoder
    return encoder_decoder_source(model, encoder, tokens, {**reads, **generation_settings(model, Chat())} if reads else {})


def whole_source(
    model: Any, name: str, kind: str, fed: Sequence[Part], provenance: dict[str, str], pooling: bool = False
) -> Source:
    """The source of a model's whole forward pass, fed these parts."""
    feeds = {name: feed for part in fed for name, feed in part.feeds.items()}
    dimensions = {dimension.name: dimension for part in fed for dimension in part.dimensions}
    sizes = {d.name: 2 if d.batch else d.bounded(max(d.tried, default=_EXAMPLE)) for d in dimensions.values()}
    sampler = _sampler(feeds)
    model.register_forward_hook(tensors_only)
    classes: dict[str, OutputClass] = {"sentence_embedding": "normalized"} if pooling else {}
    return Source(
        name=name,
        kind=kind,
        module=(SentenceEmbedding(model) if pooling else task(model)).eval(),
        inputs=sampler(sizes, torch.Generator().manual_seed(0)),
        dynamic={name: dict(feed.axes) for name, feed in feeds.items()},
        dimensions=dimensions,
        output_classes=classes,
        exporting=lambda: exporting(model),
        sampler=sampler,
        files={name: file for part in fed for name, file in part.files.items()},
        tokenizer={key: value for part in fed for key, value in part.settings.items()},
        preprocessing=gathered(fed),
        provenance=provenance,
    )


def _sampler(feeds: Mapping[str, Feed]) -> Sampler:
    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: feed.draw(sizes, generator) for name, feed in feeds.items()}

    return draw
