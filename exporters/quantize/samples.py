"""Inputs as the model will see them: to find scales with, to search with, and some that neither has seen.

Texts, images and arrays come from the user, or with a zoo name from a package; without any they are drawn at random and said
to be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.benchmarking.feeds import make_feeds, resolve_sizes
from edgeattn.bundle import Bundle
from edgeattn.decoding.tokens import Tokens
from edgeattn.errors import EdgeAttnError, UsageError
from edgeattn.exporters.quantize.functions import load_function
from edgeattn.manifest import PAST, TOKENS, state_layers
from edgeattn.preprocess import feeds as made_from
from edgeattn.runtimes.base import validate_feeds
from edgeattn.tensors import read_tensors

Feeds = dict[str, NDArray[Any]]

SYNTHETIC = "random inputs (no --calibration was given), which say little about real ones"
_IMAGES = (".png", ".jpg", ".jpeg")
_FILES = (".txt", ".npz", ".safetensors")
_OPTION = "--calibration"
_GIVEN = "a function without arguments that gives texts, or arrays by input name"
_MOST_GIVEN = 10_000
"""Items that are taken from a function, which may go on for ever."""
_FEWEST = 12
_MOST = (96, 160, 640)
"""Samples to find scales with, to search with, and for the last word."""
WINDOW = 512
"""Tokens of a text that a language model reads together, where it takes so many."""
_MOST_WINDOWS = (12, 12, 100)


@dataclass(frozen=True, slots=True)
class Samples:
    """Feeds of one sample each, apart; `origin` says what they are. Of a language model each is a window, {input_ids: (1, S)}."""

    calibration: Sequence[Feeds]
    search: Sequence[Feeds]
    unseen: Sequence[Feeds]
    origin: str


def gather(bundle: Bundle, path: Path | None, texts: Callable[[], list[str]] | None, seed: int) -> Samples:
    """From the file, folder or factory at `path`, else from `texts`, else at random.

    Raises:
        UsageError: nothing can be made of `path` for this model, or too little of it.
        FeedError: arrays that are not the model's inputs, or hold NaN.
    """
    if state_layers(info.name for info in bundle.manifest.inputs):
        raise UsageError("the model keeps the states of a recurrence, and has full precision only: leave out --precision")
    if path is not None:
        feeds, origin = _read(bundle, path), str(path)
    elif texts is not None and (sentences := texts()):
        feeds, origin = _of_texts(bundle, sentences), f"{len(sentences)} texts that come with the model's name"
    else:
        feeds, origin = _random(bundle), SYNTHETIC
    if len(feeds) < _FEWEST:
        raise UsageError(
            f"{path} makes {len(feeds)} samples, at least {_FEWEST} are needed: some to find scales with, some to search with, "
            "and some to prove the result on; give more"
        )
    random.Random(seed).shuffle(feeds)
    scaling, searching, unseen = _MOST_WINDOWS if is_decoder(bundle) else _MOST
    first = min(scaling, len(feeds) // 4)
    second = first + min(searching, len(feeds) // 4)
    return Samples(feeds[:first], feeds[first:second], feeds[second : second + unseen], origin)


def check_path(path: Path) -> None:
    """Raises UsageError where nothing can be read from `path`, whatever the model."""
    if _is_factory(path):
        load_function(str(path), _OPTION)
        return
    if not path.exists():
        raise UsageError(
            f"{path} is not there; give a .txt, .npz or .safetensors file, a folder of those or of images, "
            "FILE.py:FUNCTION, or none"
        )
    if not path.is_dir() and path.suffix not in _FILES:
        raise UsageError(f"{path.name}: calibration is read from .txt, .npz and .safetensors files and folders of images")


def is_decoder(bundle: Bundle) -> bool:
    """Whether the model has a cache."""
    return any(PAST in info.dims for info in bundle.manifest.inputs)


def window(bundle: Bundle) -> int:
    """Tokens of a text that a language model reads together: no more than it takes."""
    return min(WINDOW, bundle.manifest.limits.get(PAST, WINDOW))


def _read(bundle: Bundle, path: Path) -> list[Feeds]:
    if _is_factory(path):
        return _of_factory(bundle, path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        images = [file for file in files if file.suffix.lower() in _IMAGES]
        if images:
            return [_made(bundle, image=file) for file in images]
        return [feeds for file in files if file.suffix in _FILES for feeds in _read(bundle, file)]
    check_path(path)
    if path.suffix == ".txt":
        return _of_texts(bundle, _lines(path))
    if path.suffix == ".npz":
        return _rows(bundle, _archive(path))
    return _rows(bundle, {name: np.array(array) for name, array in read_tensors(path).items()})


def _is_factory(path: Path) -> bool:
    """Whether it is `file.py:function`."""
    return ".py:" in path.name


def _of_factory(bundle: Bundle, path: Path) -> list[Feeds]:
    """What the function gives one after the other: arrays by input name, whose first axis is that of samples, or texts."""
    texts, feeds = [], []
    try:
        given = load_function(str(path), _OPTION)()
        if isinstance(given, str):
            raise UsageError(f"{_OPTION} {path}: it gave one text; expected {_GIVEN}, many of them")
        for item in islice([given] if isinstance(given, Mapping) else given, _MOST_GIVEN):
            if isinstance(item, str):
                texts.append(item)
            else:
                feeds += _rows(bundle, {str(name): np.asarray(array) for name, array in dict(item).items()})
    except EdgeAttnError:
        raise
    except Exception as error:
        raise UsageError(f"{_OPTION} {path}: it failed: {type(error).__name__}: {error}; expected {_GIVEN}") from error
    return feeds + (_of_texts(bundle, texts) if texts else [])


def _rows(bundle: Bundle, arrays: Feeds) -> list[Feeds]:
    """Each row of arrays whose first axis is that of the samples."""
    inputs = [info for info in bundle.manifest.inputs if not is_decoder(bundle) or info.name == TOKENS]
    validate_feeds(inputs, arrays)
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(next(iter(arrays.values()))))]


def _archive(path: Path) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # not only what np.load documents: a damaged archive raises what zipfile and zlib raise
        raise UsageError(f"{path.name} is no archive of plain arrays as np.savez writes it ({error})") from error


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 ({error}); give one text a line") from error
    if not lines:
        raise UsageError(f"{path.name} holds no text; give one a line")
    return lines


def _of_texts(bundle: Bundle, texts: Sequence[str]) -> list[Feeds]:
    if not is_decoder(bundle):
        return [_made(bundle, text=text) for text in texts]
    tokens = Tokens(bundle)
    stream = np.concatenate([tokens.encode([text])[0][0] for text in texts])
    length = window(bundle)
    count = min(sum(_MOST_WINDOWS), len(stream) // length)
    return [{TOKENS: stream[None, i * length : (i + 1) * length].astype(np.int64)} for i in range(count)]


def _made(bundle: Bundle, text: str | None = None, image: Path | None = None) -> Feeds:
    return made_from(bundle, texts=[text] if text else [], images=[image] if image else [])


def _random(bundle: Bundle) -> list[Feeds]:
    """Shuffled values of a golden case, of many lengths."""
    rng = np.random.default_rng(0)
    sizes = resolve_sizes(bundle, None)
    if is_decoder(bundle):
        vocabulary = next(int(info.dims[-1]) for info in bundle.manifest.outputs if info.name == "logits")
        return [{TOKENS: rng.integers(vocabulary, size=(1, min(WINDOW // 4, window(bundle))))} for _ in range(4 * _FEWEST)]
    found = []
    for _ in range(4 * _FEWEST):
        drawn = {name: int(rng.integers(max(1, size // 2), size + 1)) if name != "batch" else 1 for name, size in sizes.items()}
        feeds = make_feeds(bundle, drawn)
        found.append({name: rng.permuted(array, axis=-1) if array.ndim > 1 else array for name, array in feeds.items()})
    return found
