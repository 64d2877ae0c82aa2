"""Log-mel frames as Whisper takes them, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.modalities import MelSettings

Array = NDArray[Any]

_LINEAR, _STEP = 1000.0, 200.0 / 3
"""Slaney's mel scale: linear below the first, in steps of the second; above it, 27 mels are a factor of 6.4."""
_LOG_STEP = np.log(6.4) / 27.0
_FLOOR = 1e-10


def log_mel(settings: MelSettings, rate: int, samples: Array) -> Array:
    """Samples (N,) to float32 (bins, frames)."""
    sound = np.zeros(settings.samples)
    kept = min(len(samples), settings.samples)
    sound[:kept] = samples[:kept]
    half = settings.fft // 2
    padded = np.pad(sound, half, mode="reflect")
    starts = settings.hop * np.arange(settings.samples // settings.hop)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(settings.fft) / settings.fft)
    frames = np.lib.stride_tricks.sliding_window_view(padded, settings.fft)[starts]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    logs = np.log10(np.maximum(power @ filters(settings, rate), _FLOOR)).T
    made = (np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
    return np.asarray(made, dtype=np.float32)


def filters(settings: MelSettings, rate: int) -> Array:
    """(fft // 2 + 1, bins): triangles on the mel scale, each of area 1."""
    frequencies = np.linspace(0, rate // 2, settings.fft // 2 + 1)
    edges = _hertz(np.linspace(0.0, _mel(settings.highest), settings.bins + 2))
    widths = np.diff(edges)
    distances = edges[None, :] - frequencies[:, None]
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2])))


def _mel(hertz: float) -> float:
    return hertz / _STEP if hertz < _LINEAR else _LINEAR / _STEP + float(np.log(hertz / _LINEAR)) / _LOG_STEP


def _hertz(mels: Array) -> Array:
    first = _LINEAR / _STEP
    return np.where(mels < first, mels * _STEP, _LINEAR * np.exp(_LOG_STEP * (mels - first)))
