"""While a graph is captured, a transformers model attends through edgeattn, padding and patterns included.

Both of transformers' interfaces must be switched: with the attention alone, it passes no mask at all, and padding
silently takes part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from edgeattn.exporters.sources.huggingface.adapters.base import changed
from edgeattn.exporters.sources.huggingface.adapters.registry import adapters
from edgeattn.exporters.sources.huggingface.attending import attend
from edgeattn.exporters.sources.huggingface.masks import described_mask

NAME = "edgeattn"
_EXPERTS = "batched_mm"
"""The one way of transformers to run a mixture of experts that is a static graph."""


@contextlib.contextmanager
def exporting(model: Any) -> Iterator[None]:
    """While open, `model` attends through edgeattn; afterwards with its own attention again.

    A part that neither follows transformers' interface nor has an adapter keeps its own attention, which raising may
    still recognise.
    """
    found = adapters(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _through_interface(model, {name for adapter in found if adapter.interface for name in adapter.classes})
        )
        for adapter in found:
            stack.enter_context(adapter.exporting(model))
        yield


@contextlib.contextmanager
def _through_interface(model: Any, adapted: set[str]) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

    AttentionInterface.register(NAME, partial(attend, causal_flag=model.config._attn_implementation != "eager"))
    AttentionMaskInterface.register(NAME, described_mask)
    with contextlib.ExitStack() as stack:
        for config in _configs(model, lambda part: part._can_set_attn_implementation() or _holds(part, adapted)):
            stack.enter_context(changed(config, "_attn_implementation_internal", NAME))
        for config in _configs(model, lambda part: part._can_set_experts_implementation()):
            stack.enter_context(changed(config, "_experts_implementation_internal", _EXPERTS))
        # positions that a model makes for itself are consecutive: what looks packed is the tracer's ignorance
        stack.enter_context(changed(masking_utils, "find_packed_sequence_indices", _never_packed))
        yield


def _configs(model: Any, concerned: Callable[[Any], bool]) -> list[Any]:
    """The configs of the transformers models inside `model` that are `concerned`, each once."""
    parts = [part for part in model.modules() if hasattr(part, "_can_set_attn_implementation") and concerned(part)]
    return list({id(part.config): part.config for part in parts}.values())


def _holds(part: Any, classes: set[str]) -> bool:
    return any(type(module).__name__ in classes for module in part.modules())


def _never_packed(position_ids: Any) -> None:
    """Stands in for `find_packed_sequence_indices`: None means one sequence per row."""
