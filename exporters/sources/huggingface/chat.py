"""What generation needs of a model's folder beside the tokenizer: where text ends, and how a chat is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeattn.exporters.sources.huggingface.pooling import read_json

_TEMPLATE = "chat_template.jinja"


def generation_settings(model: Any, template: str) -> dict[str, Any]:
    """For the manifest: `stop` token ids, and the chat template where there is one."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = model.config.get_text_config().eos_token_id if ends is None else ends
    stop = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return {"stop": stop, **({"chat_template": template} if template else {})}


def chat_template(folder: Path) -> str:
    """The Jinja template of a folder; empty without one. Of several named ones the default."""
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        found = next(
            (entry.get("template") for entry in found if isinstance(entry, dict) and entry.get("name") == "default"), None
        )
    return found if isinstance(found, str) else ""
