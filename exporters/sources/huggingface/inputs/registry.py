"""Which parts a model is fed, by the names of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.huggingface.inputs import audio, decoder, image, series, text
from edgeattn.exporters.sources.huggingface.inputs.base import Maker, Part


@dataclass(frozen=True, slots=True)
class _Row:
    """A model that takes the first of `names` has this part, and feeds those of the others that it takes too."""

    names: Sequence[str]
    maker: Maker


_ROWS = (
    _Row(text.NAMES, text.text),
    _Row(audio.SOUND_NAMES, audio.sound),
    _Row(audio.FEATURE_NAMES, audio.features),
    _Row(image.NAMES, image.image),
    _Row(series.NAMES, series.series),
    _Row(decoder.NAMES, decoder.decoder),
)


def parts(folder: Path, model: Any) -> list[Part]:
    """The parts of `model`, in the order of the table.

    Raises:
        SourceError: none fits.
    """
    accepted = inspect.signature(model.forward).parameters
    found = [
        row.maker(folder, model, [name for name in row.names if name in accepted]) for row in _ROWS if row.names[0] in accepted
    ]
    if not found:
        known = ", ".join(row.names[0] for row in _ROWS)
        raise SourceError(f"{folder}: {type(model).__name__} takes none of the inputs that are understood: {known}")
    return found
