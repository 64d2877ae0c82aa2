"""The kinds of smaller numbers, each for a runtime, from the most aggressive to the most careful."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeattn.errors import UsageError, unknown

Numbers = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a product or an embedding, or to keep a decoder's cache.

    `weights` is what is stored; `activations` what a product multiplies the weights with: int8 means that the runtime rounds its
    inputs too. `calibrated`: it needs inputs as the model will see them; `ranged`: and finds the range of each product's input there.
    `block`: so many weights of a column share a scale, on ONNX Runtime's blockwise products. `cache`: what keys and values are kept
    in; a kind that has it changes nothing else.
    """

    name: str
    runtime: str
    weights: Numbers
    activations: Numbers
    summary: str
    calibrated: bool = False
    ranged: bool = False
    block: int | None = None
    cache: Numbers | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """Something of a model that has a kind: the name of its weights, and how many numbers they are."""

    weight: str
    elements: int

    @property
    def role(self) -> str:
        """What layers of a stack have in common: the name without numbers."""
        return re.sub(r"\d+", "#", self.weight)


Kinds = Mapping[str, Kind]
"""Layer, or `CACHE` -> how it is written; what is not named stays as it is."""
CACHE = "past_key_values"
"""A decoder's keys and values, beside its layers."""
_TOKEN = "token/"
"""Before a layer's name, where a single token has a graph of its own: how the layer is written there."""

ORT, OPENVINO = "onnxruntime", "openvino"

SMALLEST = 4096
"""Elements of a weight below which nothing is gained."""
HALF_MAX = 65504.0
"""Largest number of float16; a weight beyond it stays as it is."""

KINDS: tuple[Kind, ...] = (
    Kind("int4", ORT, "int4", "int8", "MatMulNBits: blocks of 32 weights, inputs rounded to int8 block by block", block=32),
    Kind(
        "int8-static", ORT, "int8", "int8", "QDQ: a scale per column, inputs rounded with a scale found beforehand", True, True
    ),
    Kind("int8-dynamic", ORT, "int8", "int8", "MatMulInteger: a scale per column, inputs rounded with one scale per run", True),
    Kind(
        "int8-g128", ORT, "int8", "int8", "MatMulNBits: blocks of 128 weights, inputs rounded to int8 block by block", block=128
    ),
    Kind("int8", ORT, "int8", "int8", "MatMulNBits: blocks of 32 weights, inputs rounded to int8 block by block", block=32),
    Kind("fp16", ORT, "fp16", "fp32", "weights stored in half the bytes, computed in fp32"),
    Kind("int4", OPENVINO, "int4", "int8", "groups of 64 weights, inputs rounded to int8 in groups"),
    Kind("int8-static", OPENVINO, "int8", "int8", "inputs rounded with scales found beforehand", True, True),
    Kind("int8", OPENVINO, "int8", "int8", "a scale per column, inputs rounded to int8 in groups"),
    Kind("int8-weights", OPENVINO, "int8", "fp32", "a scale per column, computed in fp32"),
    Kind("fp16", OPENVINO, "fp16", "fp32", "weights stored in half the bytes, computed in fp32"),
    Kind(
        "kv-int8", ORT, "fp32", "fp32", "keys and values kept as int8, a scale for each channel of a head", True, cache="int8"
    ),
    Kind("kv-int8", OPENVINO, "fp32", "fp32", "keys and values kept as uint8, a scale for each token of a head", cache="int8"),
    Kind("kv-fp16", OPENVINO, "fp32", "fp32", "keys and values kept in half the bytes", cache="fp16"),
)


def kinds_for(runtime: str) -> tuple[Kind, ...]:
    """Those of a runtime's layers, the most aggressive first."""
    return tuple(kind for kind in KINDS if kind.runtime == runtime and kind.cache is None)


def cache_kinds(runtime: str) -> tuple[Kind, ...]:
    """Those of the cache that a runtime keeps itself, the most aggressive first."""
    return tuple(kind for kind in KINDS if kind.runtime == runtime and kind.cache is not None)


def kind(runtime: str, name: str) -> Kind:
    """The one of that name.

    Raises:
        UsageError: the runtime has none of that name, or none at all.
    """
    found = {each.name: each for each in KINDS if each.runtime == runtime}
    if not found:
        raise UsageError(f"{runtime} runs fp32 only here; the runtimes with smaller numbers are {ORT} and {OPENVINO}")
    if name not in found:
        raise unknown(f"precision for {runtime}", name, found)
    return found[name]


def kinds_of(runtime: str, name: str) -> list[Kind]:
    """What a name such as `int8`, `kv-fp16` or `int8+kv-fp16` says: a kind for all layers, one for the cache, or both.

    Raises:
        UsageError: as `kind`, or two of them are for the same.
    """
    found = [kind(runtime, part) for part in name.split("+")]
    if len({each.cache is None for each in found}) < len(found):
        raise UsageError(
            f"precision {name!r}: {' and '.join(each.name for each in found)} are for the same numbers; give one of them, "
            "or one for layers and one for the cache: int8+kv-int8"
        )
    return found


def with_token(prompts: Kinds, token: Kinds) -> Kinds:
    """A single token in the kinds `token`, everything else, and the cache of both, in `prompts`."""
    return {**for_prompts(prompts), **{f"{_TOKEN}{layer}": each for layer, each in token.items() if layer != CACHE}}


def for_prompts(kinds: Kinds) -> Kinds:
    """Those of the graph that reads everything, or everything but a single token."""
    return {layer: each for layer, each in kinds.items() if not layer.startswith(_TOKEN)}


def for_token(kinds: Kinds) -> Kinds:
    """Those of the graph for a single token; none where it has no graph of its own."""
    own = {layer.removeprefix(_TOKEN): each for layer, each in kinds.items() if layer.startswith(_TOKEN)}
    return {**own, CACHE: kinds[CACHE]} if own and CACHE in kinds else own


def label(kinds: Iterable[Kind]) -> str:
    """The precision of a flavour in these kinds, a layer each: what most of them store weights in, of two with as many the smaller; the
    kind of its cache where there are no layers."""
    found = list(kinds)
    stored = Counter(each.weights for each in found if each.cache is None)
    return min(stored, key=lambda numbers: (-stored[numbers], _BITS[numbers])) if stored else found[0].name


_BITS: Mapping[Numbers, int] = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
