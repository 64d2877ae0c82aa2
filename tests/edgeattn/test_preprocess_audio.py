"""Samples and log-mel frames on the device, held to transformers' own feature extractors; WAV files byte by byte."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from edgeattn.errors import UsageError
from edgeattn.modalities import AudioSettings, MelSettings
from edgeattn.preprocess.audio import heard, read_wav
from edgeattn.preprocess.mel import filters

Array = NDArray[Any]

MEL = MelSettings(bins=20, fft=200, hop=80, samples=16000)


def _sound(length: int, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * generator.uniform(50, 4000) * np.arange(length) / 16000)
    return np.asarray(0.4 * tone + 0.05 * generator.normal(size=length) + 0.1, np.float32)


def _wav(path: Path, data: bytes, width: int = 2, channels: int = 1, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


# ----- samples


@given(lengths=st.lists(st.integers(2, 3000), min_size=1, max_size=3), normalize=st.booleans(), masked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_samples_are_those_of_wav2vec2(lengths: list[int], normalize: bool, masked: bool) -> None:
    sounds = [_sound(length, i) for i, length in enumerate(lengths)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    theirs = extractor(sounds, sampling_rate=16000, padding=True, return_attention_mask=masked, return_tensors="np")
    made = heard(AudioSettings("input_values", 16000, normalize, "attention_mask" if masked else None), sounds)
    assert set(made) == set(theirs)
    np.testing.assert_allclose(made["input_values"], theirs["input_values"], atol=1e-5, rtol=0)
    assert made["input_values"].dtype == np.float32
    if masked:
        np.testing.assert_array_equal(made["attention_mask"], theirs["attention_mask"])
        assert made["attention_mask"].dtype == np.int64


def test_silence_is_no_division_by_zero() -> None:
    made = heard(AudioSettings("x", 16000, normalize=True), [np.zeros(100, np.float32)])
    np.testing.assert_array_equal(made["x"], np.zeros((1, 100)))


def test_a_sound_that_is_too_short() -> None:
    with pytest.raises(UsageError, match="a sound has 399 samples, the model needs at least 400"):
        heard(AudioSettings("x", 16000, least=400), [np.zeros(500, np.float32), np.zeros(399, np.float32)])


# ----- log-mel frames


@pytest.mark.parametrize(
    ("bins", "fft", "hop", "seconds"),
    [(20, 200, 80, 1), (80, 400, 160, 1), (16, 256, 100, 2), pytest.param(128, 400, 160, 30, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("length", [1, 700, 16000, 31999, 40000])
def test_frames_are_those_of_whisper(bins: int, fft: int, hop: int, seconds: int, length: int) -> None:
    sounds = [_sound(length), _sound(12345, 1)]
    extractor = WhisperFeatureExtractor(feature_size=bins, n_fft=fft, hop_length=hop, chunk_length=seconds)
    theirs = extractor(sounds, sampling_rate=16000, return_tensors="np")["input_features"]
    mel = MelSettings(bins, fft, hop, seconds * 16000)
    made = heard(AudioSettings("input_features", 16000, mel=mel), sounds)["input_features"]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("bins", "fft", "rate"), [(80, 400, 16000), (128, 400, 16000), (7, 64, 8000), (20, 512, 44100)])
def test_filters_are_slaneys(bins: int, fft: int, rate: int) -> None:
    expected = mel_filter_bank(1 + fft // 2, bins, 0.0, 4000.0, rate, norm="slaney", mel_scale="slaney")
    made = filters(MelSettings(bins, fft, 1, 16000, highest=4000.0), rate)
    np.testing.assert_allclose(made, expected, atol=1e-12, rtol=1e-9)


# ----- WAV files


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, bytes([0, 128, 255, 64]), [-1.0, 0.0, 127 / 128, -0.5]),
        (2, struct.pack("<4h", -32768, 0, 16384, 1), [-1.0, 0.0, 0.5, 1 / 32768]),
        (3, b"\x00\x00\x80\x00\x00\x40\xff\xff\xff", [-1.0, 0.5, -1 / 2**23]),
        (4, struct.pack("<3i", -(2**31), 2**30, 0), [-1.0, 0.5, 0.0]),
    ],
)
def test_integers_of_every_width(width: int, data: bytes, expected: list[float], tmp_path: Path) -> None:
    made = read_wav(_wav(tmp_path / "a.wav", data, width), 16000)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.array(expected, np.float32))


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = _wav(tmp_path / "a.wav", struct.pack("<6h", 16384, 0, -16384, -16384, 8192, 24576), channels=2)
    np.testing.assert_array_equal(read_wav(path, 16000), np.array([0.25, -0.5, 0.5], np.float32))


def test_samples_that_are_too_wide(tmp_path: Path) -> None:
    path = _wav(tmp_path / "a.wav", bytes(40))
    header = bytearray(path.read_bytes())
    struct.pack_into("<HH", header, 32, 8, 64)  # block size and bits per sample
    path.write_bytes(header)
    with pytest.raises(UsageError, match=r"a.wav has samples of 64 bits, at most 32 are read; fix: ffmpeg"):
        read_wav(path, 16000)


def test_another_sampling_rate(tmp_path: Path) -> None:
    path = _wav(tmp_path / "a.wav", bytes(40), rate=44100)
    with pytest.raises(
        UsageError, match=r"a.wav has 44100 samples per second, the model takes 16000; fix: ffmpeg -i .*-ar 16000"
    ):
        read_wav(path, 16000)


FLOATS = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 44, b"WAVE", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32, b"data", 8) + bytes(8)


@pytest.mark.parametrize("content", [b"", b"ID3\x04 an mp3", FLOATS])
def test_files_that_are_no_pcm(content: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UsageError, match="is no WAV file of integer samples"):
        read_wav(path, 16000)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there; --audio takes a WAV file"):
        read_wav(tmp_path / "a.wav", 16000)
