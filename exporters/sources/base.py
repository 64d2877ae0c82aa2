"""A source: the user's model as (module, example inputs, dynamic dimensions), with all that a bundle needs beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from edgeattn.exporters.sources.sampling import sample_like
from edgeattn.modalities import Preprocessing
from edgeattn.tolerance import OutputClass

PADDING_INPUT = "attention_mask"
"""An input of this name, integer or bool, two axes: 1 where a position is real, 0 where it is padding."""

Sampler = Callable[[Mapping[str, int], torch.Generator], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dynamic dimension from `least` to `limit`. `batch`: its entries are independent examples.

    `tried`: the sizes that parity is proven at, where the usual ones say nothing (samples of a sound).
    """

    name: str
    limit: int | None = None
    batch: bool = False
    least: int = 1
    tried: tuple[int, ...] = ()

    def bounded(self, size: int) -> int:
        """The size nearest to `size` that the dimension can have."""
        return max(self.least, size if self.limit is None else min(size, self.limit))


@contextlib.contextmanager
def _as_is() -> Iterator[None]:
    yield


@dataclass(frozen=True, slots=True)
class Source:
    """What to export.

    `inputs` maps a name to an example tensor; `dynamic` maps an input to {axis: dimension name}. `exporting` is entered
    while the graph is captured, and only then: outside it the module is exactly what the user handed in.
    """

    name: str
    kind: str
    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, str]]
    dimensions: dict[str, Dimension]
    output_classes: dict[str, OutputClass] = field(default_factory=dict)
    exporting: Callable[[], contextlib.AbstractContextManager[None]] = _as_is
    sampler: Sampler | None = None
    shaken: Callable[[], contextlib.AbstractContextManager[None]] | None = None
    """Within it the module rounds otherwise at its beginning, which tells inputs whose answer rounding decides."""
    front_padding: bool = False
    """Whether padding can be in front of a row alone, so that the sampler's mask stays as it is."""
    program: torch.export.ExportedProgram | None = None
    """The module as a program that is captured as it is, without tracing it again."""
    graph: Callable[[Sequence[str]], ir.Model] | None = None
    """Gives the canonical model for the outputs named, where the model is a graph already and nothing is traced."""
    reference: str = "PyTorch"
    """What runs the model as it was handed in."""
    whole_pass: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Of a decoder with a cache, the model without it: tokens (1, S) -> logits (1, S, V)."""
    files: dict[str, Path | bytes] = field(default_factory=dict)
    """Bundle path -> file to copy into the bundle, or its content (tokenizer, licence)."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    """How feeds are made of images and sounds; None where the model takes neither."""
    provenance: dict[str, str] = field(default_factory=dict)
    texts: Callable[[], list[str]] | None = None
    """Sentences as the model may be asked about, where some come with it."""
    parts: dict[str, Source] = field(default_factory=dict)
    """Name -> a further model of the same bundle, proven by itself, such as the encoder that a decoder needs."""

    @property
    def padding(self) -> str | None:
        """The input that marks padding, if the model has one."""
        tensor = self.inputs.get(PADDING_INPUT)
        return PADDING_INPUT if tensor is not None and tensor.ndim == 2 and not tensor.is_floating_point() else None

    def capture_sizes(self) -> dict[str, int]:
        """Sizes to trace with: never 0 or 1, which torch.export would take for constants, and all different."""
        sizes: dict[str, int] = {}
        for dimension in self.dimensions.values():
            size = max(dimension.least, 2 if dimension.batch else max(3, self._example_size(dimension.name)))
            while size in sizes.values():
                size += 1
            sizes[dimension.name] = dimension.bounded(size)
        return sizes

    def sample(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Inputs of the given dynamic sizes, with padded rows where the model has a padding mask: the sampler's, if it pads."""
        if self.sampler is not None:
            drawn = self.sampler(sizes, generator)
        else:
            drawn = {name: sample_like(tensor, self._shape(name, sizes), generator) for name, tensor in self.inputs.items()}
        if self.padding is not None and not self.front_padding and (self.sampler is None or bool(drawn[self.padding].all())):
            length = self.dimensions.get(self.dynamic.get(self.padding, {}).get(1, ""))
            drawn[self.padding] = padded_mask(drawn[self.padding], length.least if length else 1)
        return drawn

    def _shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        axes = self.dynamic.get(name, {})
        return tuple(sizes[axes[i]] if i in axes else int(size) for i, size in enumerate(self.inputs[name].shape))

    def _example_size(self, dimension: str) -> int:
        places = ((name, axis) for name, axes in self.dynamic.items() for axis, symbol in axes.items() if symbol == dimension)
        name, axis = next(places)
        return int(self.inputs[name].shape[axis])


def padded_mask(like: torch.Tensor, least: int = 1) -> torch.Tensor:
    """(B, T) ones with padding at the end: row r of B keeps T (1 - r / B) positions, at least `least`.

    A single row of odd length > 1 keeps two thirds, so that batch 1 is tried with and without padding.
    """
    batch, length = like.shape
    mask = torch.ones_like(like)
    for row in range(batch):
        kept = length - length * row // batch
        if batch == 1 and length % 2 and length > 1:
            kept = length * 2 // 3
        mask[row, max(least, kept) :] = 0
    return mask
