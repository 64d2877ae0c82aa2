"""Feeds from texts, images and sounds, as the bundle's manifest says. Numpy, and Pillow where there are images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.errors import UsageError
from edgeattn.modalities import DecoderSettings, Preprocessing
from edgeattn.preprocess.audio import heard, read_wav
from edgeattn.preprocess.image import pixels, read_image
from edgeattn.text import encode

Array = NDArray[Any]


def feeds(
    bundle: Bundle, texts: Sequence[str] = (), images: Sequence[Path] = (), sounds: Sequence[Path] = ()
) -> dict[str, Array]:
    """What the model of `bundle` is fed for a batch of texts, image files and WAV files.

    A decoder begins with its start token in every row.

    Raises:
        UsageError: a file that cannot be read, or something the bundle has no settings for; the message says why.
        RuntimeMissingError: a package that reads such files is missing.
    """
    settings = bundle.manifest.preprocessing or Preprocessing()
    made = encode(bundle, texts) if texts else {}
    if images:
        if settings.image is None:
            raise _refused(bundle, "image")
        made[settings.image.input] = pixels(settings.image, [read_image(path) for path in images])
    if sounds:
        if settings.audio is None:
            raise _refused(bundle, "audio")
        made.update(heard(settings.audio, [read_wav(path, settings.audio.rate) for path in sounds]))
    return {**_started(settings.decoder, made), **made}


def _started(decoder: DecoderSettings | None, made: dict[str, Array]) -> dict[str, Array]:
    if decoder is None or not made:
        return {}
    rows = len(next(iter(made.values())))
    return {decoder.input: np.full((rows, 1), decoder.start, np.int64)}


def _refused(bundle: Bundle, modality: str) -> UsageError:
    names = ", ".join(info.name for info in bundle.manifest.inputs)
    refused = bundle.manifest.preprocessing.refused if bundle.manifest.preprocessing else {}
    reason = refused.get(modality, f"its model takes {names}")
    return UsageError(f"{bundle.path} has no {modality} settings: {reason}; give the arrays with --input")
