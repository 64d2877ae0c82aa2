"""Feeds from text, by the tokenizer in the bundle. Needs the `tokenizers` package, and nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.errors import BundleError, RuntimeMissingError, UsageError
from edgeattn.manifest import PAST, TensorInfo, state_layers

Array = NDArray[Any]

_ATTRIBUTES = ("ids", "attention_mask", "type_ids")
"""What an encoding of the tokenizers package can give as an input."""


def encode(bundle: Bundle, texts: Sequence[str]) -> dict[str, Array]:
    """Feeds for a batch of texts, each input (B, S): padded to the longest, cut at the tokenizer's `max_length`.

    Raises:
        UsageError: no text, or a model that takes none.
        RuntimeMissingError: the `tokenizers` package is not installed.
        BundleError: the tokenizer or its settings are malformed.
    """
    if not texts:
        raise UsageError("no text was given; give at least one")
    tokenizer = open_tokenizer(bundle)
    padding = tokenizer.padding or {"pad_token": "[PAD]", "pad_id": tokenizer.token_to_id("[PAD]") or 0}
    kept = {key: padding[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token") if key in padding}
    tokenizer.enable_padding(**kept)
    tokenizer.enable_truncation(bundle.manifest.tokenizer["max_length"])
    encodings = tokenizer.encode_batch(list(texts))
    wanted = _inputs(bundle)
    return {
        info.name: np.array([getattr(encoding, wanted[info.name]) for encoding in encodings], dtype=info.dtype)
        for info in bundle.manifest.inputs
        if info.name in wanted
    }


def open_tokenizer(bundle: Bundle) -> Any:
    """The tokenizer of the bundle, as its file has it.

    Raises:
        UsageError: there is none.
        RuntimeMissingError, BundleError: as `encode`.
    """
    if not bundle.manifest.tokenizer:
        names = ", ".join(info.name for info in bundle.manifest.inputs)
        raise UsageError(f"{bundle.path} has no tokenizer: its model takes arrays ({names}), not text; give them with --input")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise RuntimeMissingError(f"text needs the package tokenizers ({error}); fix: pip install tokenizers") from error
    settings = bundle.manifest.tokenizer
    name, length = settings.get("file"), settings.get("max_length")
    if not isinstance(name, str) or not isinstance(length, int) or length < 1:
        raise _malformed(bundle, f"file {name!r} with max_length {length!r}")
    try:
        tokenizer = Tokenizer.from_str(bundle.file(name).read_text(encoding="utf-8"))
    except BundleError:
        raise
    except Exception as error:  # the package raises plain Exception
        raise _malformed(bundle, f"{name}: {error}") from error
    return tokenizer


def _inputs(bundle: Bundle) -> dict[str, str]:
    """Input name -> attribute of an encoding, for every input of the model that is not made of something else."""
    listed = bundle.manifest.tokenizer.get("inputs")
    wanted: dict[str, str] = listed if isinstance(listed, dict) else {}
    inputs = bundle.manifest.inputs
    if any(PAST in info.dims for info in inputs) or state_layers(info.name for info in inputs):
        raise UsageError(
            f"{bundle.path} takes what it has read (a key/value cache, or states) beside the text; give text to `edgeattn generate`, or arrays with --input"
        )
    for info in bundle.manifest.inputs:
        if info.name not in wanted and bundle.manifest.preprocessing is not None:
            continue
        if wanted.get(info.name) not in _ATTRIBUTES or not _is_token_input(info):
            raise _malformed(bundle, f"input {info.name!r} from {wanted.get(info.name)!r}")
    return wanted


def _is_token_input(info: TensorInfo) -> bool:
    return len(info.dims) == 2


def _malformed(bundle: Bundle, what: str) -> BundleError:
    return BundleError(f"{bundle.path}: tokenizer settings are malformed ({what}); export the model again")
