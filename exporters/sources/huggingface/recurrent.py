"""A decoder whose mixers are recurrences: what it has read is a state of one size, however long the text.

    input_ids, attention_mask (B, S), logits_to_keep (N,), past_conv.{i} (B, C, K), past_ssm.{i} (B, C, N) or (B, H, P, N)
    -> logits (B, N, V), present_conv.{i} (B, C, K), present_ssm.{i} (B, C, N) or (B, H, P, N)

One graph is the whole prompt (states of zeros), a chunk of it, and a single token: the scan of `adapters.recurrence`. What it is held
to is transformers' own single step, one token after the other, since transformers reads more than one only from the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension
from edgeattn.exporters.sources.huggingface.adapters import mamba, mamba2
from edgeattn.exporters.sources.huggingface.adapters.base import changed
from edgeattn.exporters.sources.huggingface.attention import exporting
from edgeattn.exporters.sources.huggingface.step_form import KEPT, StepForm, kept
from edgeattn.manifest import KEEP, LOGITS, TOKENS, past_state_names, present_state_names

_CHUNKS = (1, 7, 48, 17, 2)
"""Sizes that parity is proven at."""
_LONGEST_PAST = 19
_NO_LIMIT = (0.0, float("inf"))
_MIXERS = (*mamba.MIXERS, mamba2.MIXER)


def is_recurrent(model: Any) -> bool:
    """Whether every layer of the model is a recurrence that is understood."""
    mixers = sum(type(module).__name__ in _MIXERS for module in model.modules())
    return mixers == getattr(model.config, "num_hidden_layers", None)


class RecurrentDecoder(torch.nn.Module):
    """A causal language model of transformers with its states taken apart into tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = int(model.config.num_hidden_layers)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: torch.Tensor, **past: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Shapes as in the module's docstring. Token by token, as the model itself goes on; padding touches no state."""
        states, logits = [past[name] for name in past_state_names(self.layers)], []
        for tokens, real in zip(input_ids.unbind(1), attention_mask.unbind(1), strict=True):
            cache = _cache([state.clone() for state in states])
            logits.append(self.model(input_ids=tokens[:, None], cache_params=cache, use_cache=True).logits)
            states = [torch.where(_along(real, old), new, old) for new, old in zip(_taken_apart(cache), states, strict=True)]
        return self._named(torch.cat(logits, dim=1)[:, logits_to_keep], states)

    def at_once(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: torch.Tensor, **past: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The same in one pass, as it is captured; no padding behind a token."""
        cache = _cache([past[name] for name in past_state_names(self.layers)])
        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache_params=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        return self._named(result.logits, _taken_apart(cache))

    def _named(self, logits: torch.Tensor, states: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {LOGITS: logits, **dict(zip(present_state_names(self.layers), states, strict=True))}


def recurrent_form(model: Any) -> StepForm:
    """The model with its states as inputs and outputs.

    Raises:
        SourceError: steps are limited, which transformers does to a whole text and not to a single token.
    """
    if (limit := tuple(getattr(model.config, "time_step_limit", _NO_LIMIT))) != _NO_LIMIT:
        raise SourceError(
            f"{type(model).__name__} with time_step_limit {limit} has no cache that is understood; export it with --cache none"
        )
    module = RecurrentDecoder(model)
    shapes = _shapes(model)
    fed = {TOKENS: {0: "batch", 1: "sequence"}, PADDING_INPUT: {0: "batch", 1: "sequence"}, KEEP: {0: KEPT}}
    return StepForm(
        module=module,
        dynamic={**fed, **{name: {0: "batch"} for name in shapes}},
        dimensions=(Dimension("batch", batch=True), Dimension("sequence", tried=_CHUNKS), kept(None)),
        draw=partial(_draw, module, shapes),
        example={"batch": 2, "sequence": 4, KEPT: 3},
        present=present_state_names(module.layers),
        exporting=partial(_capturing, module),
        front_padding=True,
    )


@contextlib.contextmanager
def _capturing(module: RecurrentDecoder) -> Iterator[None]:
    with exporting(module.model), changed(module, "forward", module.at_once):
        yield


def _draw(
    module: RecurrentDecoder, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Random tokens, in every second row behind the states of other random tokens, in the others at the start and with padding in
    front. Logits are kept where no row is padding, since nobody asks what a model says there."""
    batch, sequence = sizes["batch"], sizes["sequence"]
    read = int(torch.randint(1, _LONGEST_PAST + 1, (1,), generator=generator))
    tokens = torch.randint(module.model.config.vocab_size, (batch, read + sequence), generator=generator)
    behind = torch.arange(sequence, sequence + batch) % 2
    states = {name: torch.zeros(batch, *shape) for name, shape in shapes.items()}
    with torch.no_grad():
        filled = module(tokens[:, :read], torch.ones_like(tokens[:, :read]), torch.tensor([0]), **states)
    named = zip(states, present_state_names(module.layers), strict=True)
    mask = torch.ones(batch, sequence, dtype=torch.int64)
    padded = sequence // 3
    mask[behind == 0, :padded] = 0
    return {
        TOKENS: tokens[:, read:].contiguous(),
        PADDING_INPUT: mask,
        KEEP: torch.randint(padded, sequence, (sizes[KEPT],), generator=generator),
        **{name: filled[present] * _along(behind, filled[present]) for name, present in named},
    }


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The states of one row as the model itself makes them."""
    with torch.no_grad():
        cache = model(torch.zeros(1, 2, dtype=torch.int64), use_cache=True).cache_params
    held = _taken_apart(cache)
    return {name: tuple(state.shape[1:]) for name, state in zip(past_state_names(len(held) // 2), held, strict=True)}


def _cache(states: list[torch.Tensor]) -> Any:
    """transformers' cache around these states, the convolution's and the recurrence's in turn."""
    from transformers.cache_utils import Cache, LinearAttentionLayer

    layers = []
    for conv, ssm in zip(states[::2], states[1::2], strict=True):
        layer = LinearAttentionLayer()
        layer.conv_states[0], layer.recurrent_states[0] = conv, ssm
        layer.conv_kernel_size[0] = conv.shape[-1]
        for known in (layer.is_conv_states_initialized, layer.is_recurrent_states_initialized, layer.has_previous_state):
            known[0] = True
        layers.append(layer)
    return Cache(layers=layers)


def _taken_apart(cache: Any) -> list[torch.Tensor]:
    return [states[0] for layer in cache.layers for states in (layer.conv_states, layer.recurrent_states)]


def _along(rows: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """(B,) 0 or 1, as bool, to go with (B, C, N)."""
    return (rows != 0).reshape(-1, *[1] * (state.dim() - 1))
