"""Text to tokens and back, by the tokenizer and the chat template in the bundle. Nothing from the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.errors import RuntimeMissingError, UsageError
from edgeattn.text import open_tokenizer

Ints = NDArray[np.int64]


class Tokens:
    """The tokenizer of a bundle for generation: prompts padded in front, tokens decoded as they come.

    Raises:
        UsageError: the bundle has no tokenizer.
        RuntimeMissingError: the package tokenizers is missing.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = open_tokenizer(bundle)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._settings: Mapping[str, Any] = bundle.manifest.tokenizer
        self.stop = self._ids("stop")
        """Tokens that end a text."""
        self.suppress, self.suppress_first = self._ids("suppress"), self._ids("suppress_first")
        """Tokens that the model is never to make, and not to begin with."""

    def _ids(self, name: str) -> tuple[int, ...]:
        listed = self._settings.get(name, [])
        known = isinstance(listed, list) and all(isinstance(token, int) for token in listed)
        return tuple(listed) if known else ()

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._settings.get("chat_template"))

    def encode(self, texts: Sequence[str], templated: bool = False) -> tuple[Ints, Ints]:
        """Tokens and mask, (B, S), padded in front to the longest; `templated` texts have their special tokens already.

        Raises:
            UsageError: an empty text.
        """
        encodings = [self._tokenizer.encode(text, add_special_tokens=not templated).ids for text in texts]
        for text, ids in zip(texts, encodings, strict=True):
            if not ids:
                raise UsageError(f"the prompt {text!r} has no tokens; give at least one")
        longest = max(len(ids) for ids in encodings)
        tokens = np.array([[0] * (longest - len(ids)) + ids for ids in encodings], dtype=np.int64)
        mask = np.array([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encodings], dtype=np.int64)
        return tokens, mask

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt of a conversation, ready for the assistant's turn; `messages` have a `role` and a `content`.

        Raises:
            UsageError: the model has no chat template, or it refuses these messages.
            RuntimeMissingError: the package jinja2 is missing.
        """
        if not self.chats:
            raise UsageError("the model has no chat template; give the whole prompt as it is")
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise RuntimeMissingError(f"a chat template needs the package jinja2 ({error}); fix: pip install jinja2") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        specials = self._settings.get("special_tokens")
        names = {"bos_token": "", "eos_token": "", **(specials if isinstance(specials, dict) else {})}
        try:
            template = environment.from_string(str(self._settings["chat_template"]))
            return str(template.render(messages=list(messages), add_generation_prompt=True, **names))
        except Exception as error:  # a template is a program: whatever it does wrong is its own
            raise UsageError(f"the model's chat template cannot be filled in: {type(error).__name__}: {error}") from error


def _refuse(message: str) -> None:
    """What templates call on messages that they do not take."""
    raise UsageError(message)


class Stream:
    """Text that grows: what is new in it after each token. A character that is not whole yet is kept back.

    Only the last tokens are decoded again, from the last place where the text was whole: a token's text may depend on the one
    before it, not on all of them.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._ids: list[int] = []
        self._before = self._shown = 0
        """The ids from `_before` are decoded again; those up to `_shown` have been given out."""

    def add(self, token: int) -> str:
        """The text that `token` adds."""
        self._ids.append(token)
        known = self._tokens.decode(self._ids[self._before : self._shown])
        text = self._tokens.decode(self._ids[self._before :])
        if text.endswith("\ufffd") or len(text) <= len(known):
            return ""
        self._before, self._shown = self._shown, len(self._ids)
        return text[len(known) :]
