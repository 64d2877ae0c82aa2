"""Reads a model folder into a source: checks it, loads it with transformers, puts its inputs together.

A folder that sentence-transformers wrote (modules.json) also gives `sentence_embedding`, pooled as it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import Sampler, Source
from edgeattn.exporters.sources.huggingface.attention import exporting
from edgeattn.exporters.sources.huggingface.inputs.base import Feed
from edgeattn.exporters.sources.huggingface.inputs.registry import parts
from edgeattn.exporters.sources.huggingface.pooling import SentenceEmbedding, read_json, reads_pooling
from edgeattn.tolerance import OutputClass

_EXAMPLE = 16
"""Size of the example along an axis that varies; the graph is dynamic."""


def from_folder(folder: Path) -> Source:
    """The source of a model folder.

    Raises:
        SourceError: transformers is missing, the folder lacks a file, or nothing is known about the model's inputs.
    """
    config = _config(folder)
    model = _load(folder, config)
    pooling = reads_pooling(folder)
    fed = parts(folder, model)
    feeds = {name: feed for part in fed for name, feed in part.feeds.items()}
    dimensions = {dimension.name: dimension for part in fed for dimension in part.dimensions}
    sizes = {d.name: 2 if d.batch else d.bounded(_EXAMPLE) for d in dimensions.values()}
    sampler = _sampler(feeds)
    classes: dict[str, OutputClass] = {"sentence_embedding": "normalized"} if pooling else {}
    return Source(
        name=folder.name,
        kind="huggingface",
        module=(SentenceEmbedding(model) if pooling else model).eval(),
        inputs=sampler(sizes, torch.Generator().manual_seed(0)),
        dynamic={name: dict(feed.axes) for name, feed in feeds.items()},
        dimensions=dimensions,
        output_classes=classes,
        exporting=lambda: exporting(model),
        sampler=sampler,
        files={name: path for part in fed for name, path in part.files.items()},
        tokenizer={key: value for part in fed for key, value in part.settings.items()},
        provenance={"architecture": config["architectures"][0], "weights": _weights(folder).name},
    )


def _sampler(feeds: Mapping[str, Feed]) -> Sampler:
    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: feed.draw(sizes, generator) for name, feed in feeds.items()}

    return draw


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
    transformers.utils.logging.disable_progress_bar()
    try:
        model = cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except Exception as error:
        raise SourceError(f"{folder}: transformers cannot load {name}: {error}") from error
    for part in (model.config, model.config.get_text_config()):
        part.return_dict, part.use_cache = True, False
    return model.eval()
