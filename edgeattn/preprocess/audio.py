"""Sounds to samples or log-mel frames, by the standard library and numpy."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import UsageError
from edgeattn.modalities import AudioSettings
from edgeattn.preprocess.mel import log_mel

Array = NDArray[Any]

_WIDEST = 4
"""Bytes of a sample."""
_STEADY = 1e-7
"""Added to the variance, so that silence is no division by zero."""


def read_wav(path: Path, rate: int) -> Array:
    """The samples of a WAV file, float32 (N,) in -1..1; several channels are averaged.

    Raises:
        UsageError: no file, none that holds PCM, or another sampling rate than `rate`.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; --audio takes a WAV file")
    try:
        with wave.open(str(path), "rb") as file:
            got, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise UsageError(
            f"{path} is no WAV file of integer samples (PCM): {error}; fix: ffmpeg -i {path} -c:a pcm_s16le -ar {rate} sound.wav"
        ) from error
    if width > _WIDEST:
        raise UsageError(
            f"{path} has samples of {8 * width} bits, at most {8 * _WIDEST} are read; fix: ffmpeg -i {path} -c:a pcm_s16le sound.wav"
        )
    if got != rate:
        raise UsageError(
            f"{path} has {got} samples per second, the model takes {rate}; fix: ffmpeg -i {path} -ar {rate} sound.wav"
        )
    samples = _decoded(data[: len(data) // (width * channels) * width * channels], width)
    return np.asarray(samples.reshape(-1, channels).mean(axis=1), dtype=np.float32)


def heard(settings: AudioSettings, sounds: Sequence[Array]) -> dict[str, Array]:
    """Sounds, float32 (N,) each, to the inputs that `settings` name.

    Raises:
        UsageError: a sound that is shorter than the model needs.
    """
    short = min(len(sound) for sound in sounds)
    if short < settings.least:
        raise UsageError(f"a sound has {short} samples, the model needs at least {settings.least}")
    if settings.mel is not None:
        return {settings.input: np.stack([log_mel(settings.mel, settings.rate, sound) for sound in sounds])}
    lengths = [len(sound) for sound in sounds]
    padded = np.zeros((len(sounds), max(lengths)), np.float32)
    mask = np.zeros(padded.shape, np.int64)
    for row, sound in enumerate(sounds):
        padded[row, : len(sound)] = sound
        mask[row, : len(sound)] = 1
        if settings.normalize:
            # a model without a mask was trained on rows that were normalized with their padding
            part = padded[row, : len(sound) if settings.mask else None]
            part[:] = (part - part.mean()) / np.sqrt(part.var() + _STEADY)
    return {settings.input: padded, **({settings.mask: mask} if settings.mask else {})}


def _decoded(data: bytes, width: int) -> Array:
    """Little-endian PCM of 1 to 4 bytes; a single byte has no sign."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    bytes_ = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(bytes_), 4), np.uint8)
    wide[:, 4 - width :] = bytes_
    return wide.view("<i4")[:, 0].astype(np.float64) / 2**31
