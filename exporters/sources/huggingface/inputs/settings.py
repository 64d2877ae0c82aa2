"""Pre-processing as the device repeats it: read from transformers' own, and kept only where the two give equal arrays.

A processor that does anything beyond `edgeattn.modalities` (patches, tiles, other spectrograms) shows in the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import BundleError
from edgeattn.exporters.sources.huggingface.inputs.base import Part
from edgeattn.exporters.sources.huggingface.pooling import read_json
from edgeattn.modalities import AudioSettings, DecoderSettings, ImageSettings, MelSettings, Preprocessing
from edgeattn.preprocess.audio import heard
from edgeattn.preprocess.image import pixels

Array = NDArray[Any]
T = TypeVar("T")

_CLOSE = 1e-4
_FILES = ("preprocessor_config.json", "processor_config.json")
_IMAGES = ((37, 53), (211, 160), (64, 64))
_SECONDS = (0.7, 2.31)
_EXTRACTORS = ("Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor")
_REASONS = (
    ArithmeticError,
    AttributeError,
    BundleError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def gathered(parts: Iterable[Part]) -> Preprocessing | None:
    """All settings of a model in one; None where no part has any."""
    found = {key: value for part in parts for key, value in part.preprocessing.items()}
    refused = {key: value for key, value in found.items() if isinstance(value, str)}
    settings = {key: value for key, value in found.items() if key not in refused}
    return Preprocessing(**settings, refused=refused) if found else None


def image_settings(folder: Path, name: str, size: tuple[int, int]) -> ImageSettings | str:
    """How images become the input `name` of this height and width, or why that cannot be repeated."""
    config = declared(folder, "image_processor")
    kind = _kind(config, ("image_processor_type", "feature_extractor_type"), "ImageProcessor")
    if not kind:
        return f"the model folder has no {_FILES[0]} that names an image processor"

    def load() -> tuple[ImageSettings, str]:
        processor = _processor(f"{kind}Pil", config)
        settings = _image(processor, name)
        return settings, _image_difference(settings, processor, size)

    return _tried(kind, load)


def _image(processor: Any, name: str) -> ImageSettings:
    return ImageSettings(
        input=name,
        resize=_size(processor.size) if processor.do_resize else (),
        resample=2 if processor.resample is None else int(processor.resample),
        crop=_size(processor.crop_size) if processor.do_center_crop else (),
        bgr=bool(getattr(processor, "do_flip_channel_order", False)),
        scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(map(float, processor.image_mean)) if processor.do_normalize else (),
        std=tuple(map(float, processor.image_std)) if processor.do_normalize else (),
    )


def _image_difference(settings: ImageSettings, processor: Any, size: tuple[int, int]) -> str:
    """Where the device's pixels are not the processor's, or not of the model's size; empty where they are."""
    generator = np.random.default_rng(0)
    for height, width in _IMAGES:
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        made = pixels(settings, [image])
        theirs = processor(images=[image], input_data_format="channels_last", return_tensors="np")
        if made.shape[2:] != size:
            got = f"{made.shape[2]} x {made.shape[3]} of {height} x {width}"
            return f"it makes {got}, the model takes {size[0]} x {size[1]}"
        if not _equal(made, theirs["pixel_values"]):
            return "it does more than resizing, cropping, scaling and normalizing"
    return ""


def audio_settings(folder: Path, name: str, mask: str | None, least: int, frames: int | None = None) -> AudioSettings | str:
    """How sounds become the input `name`, of `frames` log-mel frames or as samples, or why that cannot be repeated."""
    config = declared(folder, "feature_extractor")
    kind = _kind(config, ("feature_extractor_type",), "FeatureExtractor")
    if not kind:
        return f"the model folder has no {_FILES[0]} that names a feature extractor"
    if kind not in _EXTRACTORS:
        return f"{kind} is not repeated on a device; {' and '.join(_EXTRACTORS)} are"

    def load() -> tuple[AudioSettings, str]:
        extractor = _processor(kind, config)
        if frames is None:
            settings = AudioSettings(name, extractor.sampling_rate, bool(extractor.do_normalize), mask, least)
            padding = {"padding": True, "return_attention_mask": mask is not None}
            return settings, _sound_difference(settings, extractor, padding)
        mel = MelSettings(extractor.feature_size, extractor.n_fft, extractor.hop_length, int(extractor.n_samples))
        settings = AudioSettings(name, extractor.sampling_rate, mel=mel)
        if mel.samples // mel.hop != frames:
            return settings, f"it makes {mel.samples // mel.hop} frames, the model takes {frames}"
        return settings, _sound_difference(settings, extractor, {})

    return _tried(kind, load)


def _sound_difference(settings: AudioSettings, extractor: Any, options: dict[str, Any]) -> str:
    """Where the device's inputs are not the extractor's; empty where they are."""
    sounds = [_sound(settings.rate, seconds) for seconds in _SECONDS]
    theirs = extractor(sounds, sampling_rate=settings.rate, return_tensors="np", **options)
    for name, made in heard(settings, sounds).items():
        if not _equal(made, theirs[name]):
            return f"it gives another {name} than normalized samples or Whisper's log-mel frames"
    return ""


def decoder_settings(model: Any, name: str) -> DecoderSettings | str:
    """The start token of a decoder, and what generation always puts behind it."""
    places = (getattr(model, "generation_config", None), model.config, model.config.get_text_config(decoder=True))
    for attribute in ("decoder_start_token_id", "bos_token_id"):
        for place in places:
            if isinstance(token := getattr(place, attribute, None), int):
                return DecoderSettings(name, token, _forced(places))
    return "config.json names neither decoder_start_token_id nor bos_token_id"


def _forced(places: Sequence[Any]) -> tuple[int, ...]:
    """A first token that is forced (a language, say), or Whisper's: [[1, token], [2, token], ...]."""
    for place in places:
        if isinstance(token := getattr(place, "forced_bos_token_id", None), int):
            return (token,)
        listed = dict(getattr(place, "forced_decoder_ids", None) or ())
        tokens = [token for _, token in sorted(listed.items())]
        if tokens and all(isinstance(token, int) for token in tokens):
            return tuple(tokens)
    return ()


def declared(folder: Path, part: str) -> dict[str, Any]:
    """What a folder's processor files say of an `image_processor` or a `feature_extractor`; empty where they say nothing."""
    for name in _FILES:
        config = read_json(folder / name) if (folder / name).is_file() else None
        if isinstance(config, dict):
            inner = config.get(part, config)
            return dict(inner) if isinstance(inner, dict) else {}
    return {}


def _kind(config: dict[str, Any], keys: Sequence[str], suffix: str) -> str:
    """The processor's class. Old folders name a feature extractor for images, newer ones a `Fast` class."""
    named = next((str(config[key]) for key in keys if config.get(key)), "")
    return named.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor") + suffix if named else ""


def _processor(kind: str, config: dict[str, Any]) -> Any:
    import transformers

    if not hasattr(transformers, kind):
        raise ValueError(f"transformers {transformers.__version__} has no {kind}")
    options = {key: value for key, value in config.items() if not key.endswith("_type") and key != "processor_class"}
    return getattr(transformers, kind)(**options)


def _size(size: Any) -> tuple[int, ...]:
    """transformers' size as ours."""
    values = {key: value for key in ("height", "width", "shortest_edge", "longest_edge") if (value := getattr(size, key, None))}
    if set(values) == {"height", "width"}:
        return int(values["height"]), int(values["width"])
    if set(values) == {"shortest_edge"}:
        return (int(values["shortest_edge"]),)
    raise ValueError(f"a size by {' and '.join(values) or 'nothing'} is not repeated on the device")


def _sound(rate: int, seconds: float) -> Array:
    """A tone in noise."""
    times = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(len(times)).normal(size=len(times))
    return np.asarray(0.4 * np.sin(2 * np.pi * 440 * times) + 0.05 * noise, dtype=np.float32)


def _equal(made: Array, theirs: Any) -> bool:
    expected = np.asarray(theirs)
    return made.shape == expected.shape and bool(np.abs(made - expected).max() <= _CLOSE)


def _tried(kind: str, load: Callable[[], tuple[T, str]]) -> T | str:
    """The settings, or the reason against them: a processor that is not there or fails is a reason as well."""
    try:
        settings, reason = load()
    except _REASONS as error:
        reason = f"{type(error).__name__}: {error}"
    return f"{kind} cannot be repeated on a device: {reason}" if reason else settings
