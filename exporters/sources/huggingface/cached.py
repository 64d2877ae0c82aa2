"""A decoder with its key/value cache as inputs and outputs, under the names the field uses.

    input_ids, position_ids (B, S), attention_mask (B, P + S), logits_to_keep (N,), past_key_values.{i}.key/value (B, K, P, D)
    -> logits (B, N, V), present.{i}.key/value (B, K, P + S, D)

One graph is the whole prompt (P = 0), a chunk of it, and a single token. `logits_to_keep` names the new positions whose logits
come out: a prompt needs its last alone, and a large vocabulary's product for all of them is a good part of its time.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension, Sampler, Source
from edgeattn.exporters.sources.huggingface.attention import exporting
from edgeattn.exporters.sources.huggingface.cache_layers import filled, taken_apart
from edgeattn.exporters.sources.huggingface.chat import Chat, generation_settings
from edgeattn.exporters.sources.huggingface.inputs.base import Part
from edgeattn.exporters.sources.huggingface.inputs.text import longest
from edgeattn.exporters.sources.huggingface.recurrent import is_recurrent, recurrent_form
from edgeattn.exporters.sources.huggingface.step_form import KEPT, StepForm, kept
from edgeattn.manifest import KEEP, LOGITS, PAST, TOKENS, past_names, present_names

POSITIONS = "position_ids"
TOTAL = "total"
_CHUNKS = (1, 7, 128, 33, 2)
_PASTS = (0, 5, 1, 130, 31)
"""Sizes that parity is proven at: the empty cache, one token, more than the example has."""


class CachedDecoder(torch.nn.Module):
    """A causal language model of transformers with its cache taken apart into tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = _layers(model)
        self.selects = KEEP in inspect.signature(model.forward).parameters
        """Whether the model itself computes the logits of some positions only."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logits_to_keep: torch.Tensor,
        **past: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Shapes as in the module's docstring; every position of `past` stays, whatever a window hides of it."""
        held_before = past[past_names(1)[0]].shape[2]
        torch._check(attention_mask.shape[1] == held_before + input_ids.shape[1])  # type: ignore[no-untyped-call]
        cache = _cache([past[name] for name in past_names(self.layers)], self.model.config)
        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            **({KEEP: logits_to_keep} if self.selects else {}),
        )
        logits = result.logits if self.selects else result.logits[:, logits_to_keep]
        return {LOGITS: logits, **dict(zip(present_names(self.layers), taken_apart(cache), strict=True))}


def cached_source(model: Any, name: str, kind: str, part: Part, provenance: dict[str, str], chat: Chat) -> Source:
    """The source of a causal language model with its cache; `part` is what `inputs.text` makes of its folder.

    Raises:
        SourceError: it is no causal language model, or a layer keeps neither keys and values nor a state that is understood.
    """
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise SourceError(f"{name}: {type(model).__name__} has no cache that is understood; export it with --cache none")
    form = recurrent_form(model) if is_recurrent(model) else _cached_form(model)
    return Source(
        name=name,
        kind=kind,
        module=form.module.eval(),
        inputs=form.draw(form.example, torch.Generator().manual_seed(0)),
        dynamic=form.dynamic,
        dimensions={dimension.name: dimension for dimension in form.dimensions},
        output_classes=dict.fromkeys(form.outputs, "decoder"),
        exporting=form.exporting,
        sampler=form.draw,
        shaken=form.shaken,
        front_padding=form.front_padding,
        whole_pass=lambda tokens: model(tokens, use_cache=False).logits,
        files=dict(part.files),
        tokenizer={**part.settings, **generation_settings(model, chat)} if part.settings else {},
        provenance=provenance,
    )


def _cached_form(model: Any) -> StepForm:
    """The model with its keys and values as inputs and outputs. Raises SourceError as `_shapes`."""
    module = CachedDecoder(model).eval()
    return StepForm(
        module=module,
        dynamic=_dynamic(model),
        dimensions=_dimensions(model),
        draw=_sampler(module),
        example={"batch": 2, "sequence": 4, PAST: 5, KEPT: 3},
        present=present_names(module.layers),
        exporting=lambda: exporting(model),
        shaken=partial(_shaken, model),
    )


@contextlib.contextmanager
def _shaken(model: Any) -> Iterator[None]:
    """Within it each embedding is off by about a unit in the last place, always the same way."""
    generator = torch.Generator().manual_seed(0)

    def shake(module: torch.nn.Module, given: Any, embedded: torch.Tensor) -> torch.Tensor:
        unit = torch.finfo(embedded.dtype).eps
        return embedded * (1 + unit * torch.randn(embedded.shape, generator=generator)).to(embedded.dtype)

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def _dynamic(model: Any) -> dict[str, dict[int, str]]:
    """Input -> {axis: dimension}."""
    return {
        TOKENS: {0: "batch", 1: "sequence"},
        PADDING_INPUT: {0: "batch", 1: TOTAL},
        POSITIONS: {0: "batch", 1: "sequence"},
        KEEP: {0: KEPT},
        **{name: {0: "batch", 2: PAST} for name in past_names(_layers(model))},
    }


def _dimensions(model: Any) -> tuple[Dimension, ...]:
    """Batch, new tokens, and tokens in the cache, which may be none."""
    limit = longest(model)
    return (
        Dimension("batch", batch=True),
        Dimension("sequence", limit=limit, tried=_together(_CHUNKS, limit)),
        Dimension(PAST, limit=limit, least=0, tried=_together(_PASTS, limit)),
        kept(limit),
    )


def _together(sizes: tuple[int, ...], limit: int | None) -> tuple[int, ...]:
    """Sizes of which two fit into the model's positions."""
    return sizes if limit is None else tuple(min(size, limit // 2) for size in sizes)


def _sampler(module: CachedDecoder) -> Sampler:
    """Random tokens behind the cache of other random tokens, as the model itself fills it; in every second row some of the
    cache, or without one the last token, is padding. So no token is without a key that it sees, however small a window: what a
    model says there is nobody's, zeros from one attention of transformers and an average from the other."""
    vocabulary = module.model.config.get_text_config().vocab_size
    nothing = {name: torch.zeros(1, *shape) for name, shape in _shapes(module.model).items()}

    def draw(sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch, sequence, past = sizes["batch"], sizes["sequence"], sizes[PAST]
        tokens = torch.randint(vocabulary, (batch, past + sequence), generator=generator)
        mask = torch.ones_like(tokens)
        padded = slice(1, None, 2) if batch > 1 else slice(past % 2)
        if past:
            mask[padded, : (past + 1) // 2] = 0
        elif sequence > 1:
            mask[padded, -1] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = {name: empty.expand(batch, -1, -1, -1) for name, empty in nothing.items()}
        if past:
            with torch.no_grad():
                filled = module(
                    tokens[:, :past], mask[:, :past], positions[:, :past].contiguous(), torch.tensor([past - 1]), **cache
                )
            cache = {name: filled[present].clone() for name, present in zip(cache, present_names(module.layers), strict=True)}
        return {
            TOKENS: tokens[:, past:].contiguous(),
            PADDING_INPUT: mask,
            POSITIONS: positions[:, past:].contiguous(),
            KEEP: torch.randint(sequence, (sizes[KEPT],), generator=generator),
            **{name: value.contiguous() for name, value in cache.items()},
        }

    return draw


def _shapes(model: Any) -> dict[str, tuple[int, int, int]]:
    """(K, 0, D) of each part of an empty cache: as the model itself fills it, since configs name heads and sizes as they like.

    Raises:
        SourceError: a layer keeps something else than keys and values (a recurrence's state).
    """
    with torch.no_grad():
        cache = getattr(model(torch.zeros(1, 2, dtype=torch.int64), use_cache=True), "past_key_values", None)
    held = [getattr(layer, kind, None) for layer in getattr(cache, "layers", []) for kind in ("keys", "values")]
    parts = [part for part in held if isinstance(part, torch.Tensor) and part.dim() == 4]
    if len(parts) != len(held) or len(parts) != 2 * _layers(model):
        raise SourceError(
            f"the cache of {type(model).__name__} is not the keys and values of its {_layers(model)} layers, (B, K, P, D) each; "
            "export it with --cache none"
        )
    return {name: (part.shape[1], 0, part.shape[3]) for name, part in zip(past_names(_layers(model)), parts, strict=True)}


def _layers(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _cache(past: list[torch.Tensor], config: Any) -> Any:
    """transformers' cache around these tensors, keys and values in turn.

    Raises:
        SourceError: a layer keeps something else than keys and values (a recurrence's state).
    """
    from transformers.cache_utils import Cache

    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"] * (len(past) // 2)
    if strange := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        raise SourceError(f"a cache of layers of type {', '.join(strange)} is not understood; export without a cache")
    layers = []
    for keys, values, kind in zip(past[::2], past[1::2], kinds, strict=True):
        layer = filled(keys, values)
        layer.is_sliding = kind == "sliding_attention"  # which mask it is; it keeps every position all the same
        layers.append(layer)
    return Cache(layers=layers)
