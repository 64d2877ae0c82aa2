"""What generation needs of a model's folder beside the tokenizer: where text ends, and how a chat is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeattn.exporters.sources.huggingface.pooling import read_json

_TEMPLATE = "chat_template.jinja"
_SUPPRESSED = {"suppress": "suppress_tokens", "suppress_first": "begin_suppress_tokens"}
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class Chat:
    """A Jinja template, empty without one, and the special tokens that it may write, by transformers' names."""

    template: str = ""
    specials: dict[str, str] = field(default_factory=dict)


def generation_settings(model: Any, chat: Chat) -> dict[str, Any]:
    """For the manifest: `stop` token ids, the ids that are never made (`suppress`) or never made first, and the chat template
    with its special tokens, each where there is one."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = model.config.get_text_config().eos_token_id if ends is None else ends
    stop = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    never = {ours: list(ids) for ours, name in _SUPPRESSED.items() if (ids := getattr(model.generation_config, name, None))}
    return {
        "stop": stop,
        **never,
        **({"chat_template": chat.template, "special_tokens": chat.specials} if chat.template else {}),
    }


def chat_of(folder: Path) -> Chat:
    """What a folder says of chats. Of several named templates the default."""
    path = folder / "tokenizer_config.json"
    read = read_json(path) if path.is_file() else {}
    config = read if isinstance(read, dict) else {}
    specials = {name: text for name in SPECIAL if (text := _text(config.get(name)))}
    if (folder / _TEMPLATE).is_file():
        return Chat((folder / _TEMPLATE).read_text(encoding="utf-8"), specials)
    found = config.get("chat_template")
    if isinstance(found, list):
        named = (entry for entry in found if isinstance(entry, dict))
        found = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return Chat(found if isinstance(found, str) else "", specials)


def _text(token: object) -> str:
    """A token as a tokenizer_config.json has it: its text, or an object with it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""
