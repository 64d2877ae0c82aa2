"""A small encoder whose weights are large enough to be written in smaller numbers, and a workshop of any small bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle, open_bundle
from edgeattn.exporters.quantize.candidate import Workshop
from edgeattn.exporters.quantize.kinds import kind
from edgeattn.exporters.quantize.ranges import Method
from edgeattn.runtimes import registry

Feeds = dict[str, NDArray[Any]]

VOCABULARY, WIDTH, LAYERS = 300, 64, 2
PRODUCTS = 4 * LAYERS
"""qkv, out, up and down of each layer."""
TARGETS = ("onnxruntime:cpu", "openvino:cpu")

SOURCE = """
import torch
from torch import nn

VOCABULARY, WIDTH, HEADS, LAYERS = 300, 64, 4, 2


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        with torch.no_grad():
            self.qkv.weight.mul_(3.0)  # attention far from uniform
            self.first.weight[::16] = 6.0  # columns that stand out, as those of real models do

    def forward(self, x, mask):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.first(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(torch.relu(self.up(self.second(x))))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask.bool())
        real = attention_mask[..., None].to(x.dtype)
        return {"hidden": x, "sentence_embedding": (x * real).sum(1) / real.sum(1)}


def build():
    ids = torch.arange(20).reshape(2, 10) * 13 % VOCABULARY
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Encoder(), inputs, {name: {0: "batch", 1: torch.export.Dim("sequence", max=64)} for name in inputs}
"""
"""A factory file."""


def draw(count: int, seed: int = 0, longest: int = 24) -> list[Feeds]:
    """Samples of many lengths, nothing of them padding."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, longest + 1, size=count)
    return [
        {"input_ids": rng.integers(VOCABULARY, size=(1, n)), "attention_mask": np.ones((1, n), dtype=np.int64)} for n in lengths
    ]


def workshop(
    bundle: Path | Bundle, runtime: str, folder: Path, calibration: Sequence[Feeds] = (), method: Method | None = None
) -> Workshop:
    """For `runtime` on the CPU."""
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    flavour = opened.manifest.flavour(f"{runtime}:cpu")
    assert flavour is not None
    return Workshop(opened, flavour, registry.get(runtime), "cpu", calibration, folder, threads=1, method=method)


def all_in(shop: Workshop, name: str) -> dict[str, Any]:
    """Every layer in the kind `name`."""
    return dict.fromkeys(shop.layers, kind(shop.runtime.name, name))
