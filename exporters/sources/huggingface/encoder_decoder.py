"""An encoder-decoder taken apart for generation: the encoder runs once, the decoder once for each token.

    the encoder: input_ids (B, T), attention_mask (B, T), or input_features (B, bins, frames)
    -> present.{i}.encoder.key/value (B, K, T, D), what it read as the keys and values of every decoder layer

    the decoder: decoder_input_ids (B, S), encoder_attention_mask (B, T) where the encoder has a mask,
    past_key_values.{i}.encoder.key/value (B, K, T, D), past_key_values.{i}.decoder.key/value (B, K, P, D)
    -> logits (B, S, V), present.{i}.decoder.key/value (B, K, P + S, D)

Positions follow from P. Both are the model's own forward pass around a cache, so that whatever a family does between its
two halves is done; what only the other half needs does not reach the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Dimension, Source
from edgeattn.exporters.sources.huggingface.cache_layers import filled, taken_apart
from edgeattn.exporters.sources.huggingface.inputs import decoder
from edgeattn.exporters.sources.huggingface.inputs.base import Part
from edgeattn.exporters.sources.huggingface.inputs.settings import gathered
from edgeattn.manifest import ENCODER, ENCODER_MASK, LOGITS, PAST, past_names, present_names

Tensors = dict[str, torch.Tensor]

_CHUNKS = (1, 7, 128, 33, 2)
_PASTS = (31, 130, 0, 1, 5)
"""Sizes that parity is proven at, in the pairs that the grid makes of them: 7 tokens behind nothing, 1 behind 130, 128 behind 1, ..."""
_TIED = ("encoder_outputs", "past_key_values")
"""What a forward pass must take so that its halves can run apart."""


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What the model's two caches look like: layers, the heads and head sizes of each, and what the encoder gives."""

    layers: int
    own: tuple[int, int]
    cross: tuple[int, int]
    states: tuple[int, int]
    """(T, width) of the encoder's output for the example."""


class Encoder(torch.nn.Module):
    """The encoder, its output projected by every decoder layer's cross attention."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> Tensors:
        """The encoder's own inputs; one token is decoded behind them, since that is what fills the cache."""
        _, _, cross = begun(self.model, inputs)
        held = taken_apart(cross)
        return dict(zip(present_names(len(held) // 2, ENCODER), held, strict=True))


class Decoder(torch.nn.Module):
    """The decoder behind both caches."""

    def __init__(self, model: Any, layers: int, width: int) -> None:
        super().__init__()
        self.model, self.layers, self.width = model, layers, width

    def forward(
        self, decoder_input_ids: torch.Tensor, encoder_attention_mask: torch.Tensor | None = None, **past: torch.Tensor
    ) -> Tensors:
        """Shapes as in the module's docstring."""
        from transformers.cache_utils import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        own, cross = (_cache(past, self.layers, of) for of in ("decoder", ENCODER))
        cache = EncoderDecoderCache(own, cross)
        cache.is_updated = dict.fromkeys(range(self.layers), True)
        keys = cross.layers[0].keys
        # stands for what the encoder gave: its sizes are read, its values are in the cache already
        states = keys.new_zeros(1, 1, 1).expand(keys.shape[0], keys.shape[2], self.width)
        result = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            past_key_values=cache,
            use_cache=True,
            **({} if encoder_attention_mask is None else {PADDING_INPUT: encoder_attention_mask}),
        )
        return {LOGITS: result.logits, **dict(zip(present_names(self.layers, "decoder"), taken_apart(own), strict=True))}


def encoder_decoder_source(model: Any, encoder: Source, fed: Part, tokenizer: dict[str, Any]) -> Source:
    """The source of the decoder, with that of the encoder as its part.

    Args:
        encoder: a source with the encoder's inputs.
        fed: the decoder's tokens.
        tokenizer: what the manifest keeps for reading tokens back; its files are the encoder's.

    Raises:
        SourceError: the halves cannot run apart, or the encoder gives another number of positions than it reads.
    """
    shapes = _shapes(model, encoder)
    encoder = replace(
        encoder,
        module=Encoder(model).eval(),
        output_classes=dict.fromkeys(present_names(shapes.layers, ENCODER), "decoder"),  # a cache as any other
    )
    masked = PADDING_INPUT in encoder.inputs
    module = Decoder(model, shapes.layers, shapes.states[1]).eval()
    draw = partial(_draw, module, encoder, fed, shapes)
    limit = next(d.limit for d in fed.dimensions if d.name == decoder.LENGTH)
    return replace(
        encoder,
        module=module,
        inputs=draw({**_example(encoder), decoder.LENGTH: 4, PAST: 5}, torch.Generator().manual_seed(0)),
        dynamic=_dynamic(encoder, shapes.layers, masked),
        dimensions={**encoder.dimensions, "batch": _batch(encoder), decoder.LENGTH: _length(limit), PAST: _past(limit)},
        output_classes=dict.fromkeys([LOGITS, *present_names(shapes.layers, "decoder")], "decoder"),
        sampler=draw,
        tokenizer=tokenizer,
        preprocessing=gathered([fed]),
        parts={ENCODER: encoder},
    )


def begun(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[Any, Any, Any]:
    """One token decoded behind the encoder's inputs: the output, and the two caches that it leaves."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    own, cross = DynamicCache(), DynamicCache()
    batch = next(iter(inputs.values())).shape[0]
    tokens = torch.zeros((batch, 1), dtype=torch.int64)
    result = model(**inputs, decoder_input_ids=tokens, past_key_values=EncoderDecoderCache(own, cross), use_cache=True)
    return result, own, cross


def _cache(past: Mapping[str, torch.Tensor], layers: int, of: str) -> Any:
    from transformers.cache_utils import Cache

    names = past_names(layers, of)
    return Cache(layers=[filled(past[key], past[value]) for key, value in zip(names[::2], names[1::2], strict=True)])


def _shapes(model: Any, encoder: Source) -> _Shapes:
    """Read off one run. Raises SourceError where the model cannot be taken apart."""
    accepted = inspect.signature(model.forward).parameters
    if missing := [name for name in _TIED if name not in accepted]:
        raise SourceError(
            f"{encoder.name}: {type(model).__name__} takes no {missing[0]}, so its encoder cannot run once for all tokens; "
            "export it with --cache none"
        )
    with torch.no_grad():
        result, own, cross = begun(model, encoder.inputs)
    states = result.encoder_last_hidden_state
    length = next((int(encoder.inputs[n].shape[1]) for n in encoder.inputs if encoder.dynamic[n].get(1) == "sequence"), None)
    if set(encoder.dimensions) - {"batch", "sequence"} or length not in (None, states.shape[1]):
        raise SourceError(
            f"{encoder.name}: the encoder of {type(model).__name__} gives {states.shape[1]} positions for inputs of "
            f"{', '.join(f'{name} {list(x.shape)}' for name, x in encoder.inputs.items())}; how many it gives for others is "
            "not understood: export it with --cache none"
        )
    sizes = [(int(held.layers[0].keys.shape[1]), int(held.layers[0].keys.shape[3])) for held in (own, cross)]
    return _Shapes(len(own.layers), sizes[0], sizes[1], (int(states.shape[1]), int(states.shape[2])))


def _dynamic(encoder: Source, layers: int, masked: bool) -> dict[str, dict[int, str]]:
    """Input -> {axis: dimension}. The encoder's positions vary where its inputs do."""
    varies = {2: "sequence"} if "sequence" in encoder.dimensions else {}
    return {
        decoder.TOKENS: {0: "batch", 1: decoder.LENGTH},
        **({ENCODER_MASK: {0: "batch", 1: "sequence"}} if masked else {}),
        **{name: {0: "batch", **varies} for name in past_names(layers, ENCODER)},
        **{name: {0: "batch", 2: PAST} for name in past_names(layers, "decoder")},
    }


def _batch(encoder: Source) -> Dimension:
    """Rows. Few of them where every one has all the positions of a sound or an image: what the encoder gives for the usual
    sizes would fill the memory."""
    return Dimension("batch", batch=True, tried=() if "sequence" in encoder.dimensions else (1, 2))


def _length(limit: int | None) -> Dimension:
    """New tokens; as many as still fit behind the longest cache that is tried."""
    return Dimension(decoder.LENGTH, limit=limit, tried=_at_most(_CHUNKS, limit and limit - limit // 2))


def _past(limit: int | None) -> Dimension:
    """Tokens in the decoder's cache, which may be none."""
    return Dimension(PAST, limit=limit, least=0, tried=_at_most(_PASTS, limit and limit // 2))


def _at_most(sizes: tuple[int, ...], limit: int | None) -> tuple[int, ...]:
    return sizes if limit is None else tuple(min(size, limit) for size in sizes)


def _example(encoder: Source) -> dict[str, int]:
    """The sizes of the encoder's example."""
    places = [(name, axis, symbol) for name, axes in encoder.dynamic.items() for axis, symbol in axes.items()]
    return {symbol: int(encoder.inputs[name].shape[axis]) for name, axis, symbol in places}


def _draw(
    module: Decoder, encoder: Source, fed: Part, shapes: _Shapes, sizes: Mapping[str, int], generator: torch.Generator
) -> Tensors:
    """Random tokens behind the cache of other random tokens, behind what the encoder gives for random inputs, some of them
    padded: each as the model itself fills it."""
    batch, new, past = sizes["batch"], sizes[decoder.LENGTH], sizes[PAST]
    read = encoder.sample(sizes, generator)
    tokens = fed.feeds[decoder.TOKENS].draw({**sizes, decoder.LENGTH: past + new}, generator)
    with torch.no_grad():
        cross = dict(zip(past_names(shapes.layers, ENCODER), encoder.module(**read).values(), strict=True))
    given = {**({ENCODER_MASK: read[PADDING_INPUT]} if PADDING_INPUT in read else {}), **cross}
    empty = torch.zeros(batch, shapes.own[0], 0, shapes.own[1])
    cache = {name: empty.clone() for name in past_names(shapes.layers, "decoder")}
    if past:
        with torch.no_grad():
            before = module(tokens[:, :past], **given, **cache)
        cache = {name: before[of] for name, of in zip(cache, present_names(shapes.layers, "decoder"), strict=True)}
    feeds = {decoder.TOKENS: tokens[:, past:], **given, **cache}
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in feeds.items()}
