"""What a SOURCE argument means."""

from __future__ import annotations

from pathlib import Path

from edgeattn.errors import UsageError, unknown
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.factory import from_factory
from edgeattn.exporters.sources.huggingface import from_folder
from edgeattn.exporters.sources.variant import from_variant
from edgeattn.exporters.sources.zoo import MODELS, from_zoo
from edgeattn.models import list_variants

FORMS = "a zoo name, an attention variant, pkg.mod:factory, path/to/file.py:factory, or a Hugging Face model folder"


def resolve(text: str) -> Source:
    """The source that `text` names.

    Raises:
        UsageError: none of the forms fits; names the nearest zoo models and variants.
        SourceError: the form fits but the model cannot be loaded.
    """
    if text in MODELS:
        return from_zoo(text)
    if text in list_variants():
        return from_variant(text)
    if Path(text).is_dir():
        return from_folder(Path(text))
    if ":" in text and not text.endswith(":"):
        return from_factory(text)
    if text.endswith(".py"):
        raise UsageError(f"{text} names a file but no factory in it; write {text}:function")
    raise UsageError(f"{unknown('source', text, [*MODELS, *list_variants()])}; a source is {FORMS}")
