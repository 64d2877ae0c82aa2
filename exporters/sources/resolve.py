"""What a SOURCE argument means."""

from __future__ import annotations

from pathlib import Path

from edgeattn.errors import UsageError, unknown
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.factory import from_factory
from edgeattn.exporters.sources.gguf_file import from_gguf
from edgeattn.exporters.sources.huggingface import from_folder
from edgeattn.exporters.sources.onnx_file import from_onnx
from edgeattn.exporters.sources.program import from_archive
from edgeattn.exporters.sources.variant import from_variant
from edgeattn.exporters.sources.zoo import MODELS, from_zoo
from edgeattn.models import list_variants

FORMS = "a zoo name, an attention variant, pkg.mod:factory, path/to/file.py:factory, a .pt2 program, a .onnx file, a .gguf file, or a Hugging Face model folder"

_TORCH_FILES = (".pt2", ".pt", ".pth", ".ckpt", ".pkl")
"""Only the first is a model; the others are answered by what they hold."""


def resolve(text: str, cache: bool | None = None) -> Source:
    """The source that `text` names; `cache` says whether a language model or encoder-decoder gets its key/value cache as inputs
    and outputs, by default where the source is made for generation (a GGUF file).

    Raises:
        UsageError: none of the forms fits; names the nearest zoo models and variants.
        SourceError: the form fits but the model cannot be loaded.
    """
    if text in MODELS:
        return from_zoo(text, cache)
    if Path(text).suffix == ".gguf":
        return from_gguf(Path(text), cache is not False)
    variant = text in list_variants()
    if Path(text).is_dir() and not variant:
        return from_folder(Path(text), bool(cache))
    if cache:
        raise UsageError(f"{text} gets no cache: that is for Hugging Face folders, GGUF files and zoo names of language models")
    if variant:
        return from_variant(text)
    if Path(text).suffix == ".onnx":
        return from_onnx(Path(text))
    if Path(text).suffix in _TORCH_FILES:
        return from_archive(Path(text))
    if ":" in text and not text.endswith(":"):
        return from_factory(text)
    if text.endswith(".py"):
        raise UsageError(f"{text} names a file but no factory in it; write {text}:function")
    raise UsageError(f"{unknown('source', text, [*MODELS, *list_variants()])}; a source is {FORMS}")
