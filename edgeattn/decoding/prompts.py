"""What a model is asked, as arrays: a prompt to go on from, or a text, sound or image to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.decoding.encoder_decoder import EncoderDecoderSession, begin_tokens, load_encoder_decoder
from edgeattn.decoding.opening import load_decoder
from edgeattn.decoding.session import DecoderSession
from edgeattn.decoding.tokens import Ints, Tokens
from edgeattn.errors import UsageError
from edgeattn.manifest import ENCODER, TOKENS
from edgeattn.preprocess import feeds


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user gave: one of a text, a WAV file and an image. `begin` replaces the tokens that answers begin with."""

    text: str | None = None
    audio: Path | None = None
    image: Path | None = None
    system: str | None = None
    begin: str | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """The first tokens (1, S) and their mask, and what an encoder reads before them."""

    ids: Ints
    mask: Ints
    read: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Tokens of the text that was given; of a sound or an image, those that its answer begins with."""
        return int(self.read.get(TOKENS, self.ids).shape[1])

    def encode(self, session: DecoderSession) -> None:
        """Let an encoder read what it reads."""
        if isinstance(session, EncoderDecoderSession):
            session.encode(self.read)


def prompt_of(bundle: Bundle, tokens: Tokens, asked: Asked) -> Prompt:
    """The prompt as the model of `bundle` takes it.

    Raises:
        UsageError: something was given that the model has no place for, or too little.
    """
    if sum(given is not None for given in (asked.text, asked.audio, asked.image)) != 1:
        raise UsageError("give one of a PROMPT, a sound (--audio FILE) and an image (--image FILE)")
    return _answered(bundle, tokens, asked) if ENCODER in bundle.parts else _continued(bundle, tokens, asked)


def load_session(
    bundle: Bundle, runtime: str, device: str, threads: int | None, precision: str | None = None
) -> DecoderSession:
    """Either kind of session, as the bundle is. Errors as `edgeattn.load`."""
    return (load_encoder_decoder if ENCODER in bundle.parts else load_decoder)(bundle, runtime, device, threads, precision)


def _continued(bundle: Bundle, tokens: Tokens, asked: Asked) -> Prompt:
    if asked.text is None:
        raise UsageError(f"{bundle.path} is a language model: it reads text alone; give a PROMPT")
    if asked.begin is not None:
        raise UsageError(f"--begin {asked.begin!r:.40} has no place to go: the model goes on from PROMPT; put its text there")
    chats = tokens.chats and not asked.raw
    if asked.system and not chats:
        why = "--raw leaves the chat template out" if asked.raw else "the model has no chat template"
        raise _no_place(asked.system, why)
    return Prompt(*tokens.encode([tokens.chat(_messages(asked.text, asked.system)) if chats else asked.text], templated=chats))


def _answered(bundle: Bundle, tokens: Tokens, asked: Asked) -> Prompt:
    if asked.system:
        raise _no_place(asked.system, "the model has an encoder, and no chat template")
    encoder = bundle.parts[ENCODER]
    if asked.text is not None and not encoder.manifest.tokenizer:
        names = ", ".join(info.name for info in encoder.manifest.inputs)
        raise UsageError(f"{bundle.path} answers no text: it reads {names}; give that with --audio or --image")
    texts = () if asked.text is None else (asked.text,)
    images, sounds = (() if path is None else (path,) for path in (asked.image, asked.audio))
    read = feeds(encoder, texts, images, sounds)
    if asked.begin is not None:
        return Prompt(*tokens.encode([asked.begin], templated=True), read)
    begin = begin_tokens(bundle.manifest)
    if not begin:
        raise UsageError(
            f"{bundle.path} does not say what its answers begin with; give it with --begin, in the tokenizer's words"
        )
    ids = np.array([begin], dtype=np.int64)
    return Prompt(ids, np.ones_like(ids), read)


def _no_place(system: str, why: str) -> UsageError:
    return UsageError(f"--system {system!r:.40} has no place to go: {why}; put its text in PROMPT")


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    user = {"role": "user", "content": prompt}
    return [{"role": "system", "content": system}, user] if system else [user]
