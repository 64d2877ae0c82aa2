"""The decoder's token ids of an encoder-decoder. Its own length, and no mask: what is padded behind is unseen by a causal decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeattn.exporters.sources.base import Dimension
from edgeattn.exporters.sources.huggingface.inputs.base import Feed, Part
from edgeattn.exporters.sources.huggingface.inputs.settings import decoder_settings
from edgeattn.exporters.sources.huggingface.inputs.text import integers

TOKENS = "decoder_input_ids"
NAMES = (TOKENS,)
LENGTH = "decoder_sequence"
_LIMITS = ("max_target_positions", "max_position_embeddings", "n_positions")


def decoder(folder: Path, model: Any, names: Sequence[str]) -> Part:
    """Random token ids (B, decoder_sequence), of the decoder's own vocabulary."""
    config = model.config.get_text_config(decoder=True)
    limit = next((getattr(config, name) for name in _LIMITS if getattr(config, name, None)), None)
    draw = integers(int(config.vocab_size), LENGTH)
    return Part(
        feeds={TOKENS: Feed(draw, {0: "batch", 1: LENGTH})},
        dimensions=(Dimension("batch", batch=True), Dimension(LENGTH, limit=limit)),
        preprocessing={"decoder": decoder_settings(model, TOKENS)},
    )
