"""Models that hear, models of time series, and two of a user's own: an anomaly score, and the next item of a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeattn.spec import Causal, SoftmaxAttention
from tests.exporters.families.building import Family, prove, prove_family

PLAIN = SoftmaxAttention(2, 2, 8)
PADDED = SoftmaxAttention(2, 2, 8, mask="key_padding")
HEARS: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_labels": 3,
}
SPECTRUM: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_length": 48,
    "num_mel_bins": 16,
    "patch_size": 8,
    "num_labels": 3,
    "initializer_range": 0.1,
}
SERIES: dict[str, Any] = {
    "num_input_channels": 3,
    "context_length": 32,
    "patch_length": 8,
    "patch_stride": 4,
    "num_hidden_layers": 2,
    "d_model": 16,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "prediction_length": 5,
    "loss": "mse",
}
MASKED = ("input_values", "attention_mask")

FAMILIES = {
    "wav2vec 2.0, CTC": Family("Wav2Vec2ForCTC", {**HEARS, "feat_extract_norm": "layer"}, [PADDED] * 2, MASKED),
    # normalized over the whole sound, so it was trained without a mask and takes none
    "wav2vec 2.0, one norm": Family("Wav2Vec2ForCTC", {**HEARS, "feat_extract_norm": "group"}, [PLAIN] * 2, ("input_values",)),
    "wav2vec 2.0, classes": Family(
        "Wav2Vec2ForSequenceClassification", {**HEARS, "feat_extract_norm": "layer"}, [PADDED] * 2, MASKED
    ),
    "AST": Family("ASTForAudioClassification", SPECTRUM, [PLAIN] * 2, ("input_values",)),
    "PatchTST": Family("PatchTSTForPrediction", SERIES, [PLAIN] * 2, ("past_values",), ("prediction_outputs", "loc", "scale")),
}
QUICK = {"PatchTST"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def test_a_model_of_sound_or_series(name: str, tmp_path: Path) -> None:
    bundle = prove_family(FAMILIES[name], tmp_path)
    if name.startswith("wav2vec"):
        # samples of 2, 7, 49, 99 and 149 frames of 20 samples, with those that are no whole frame
        assert sorted({case.sizes["samples"] for case in bundle.manifest.golden}) == [50, 151, 992, 1993, 2994]


OWN = '''
import torch
from torch import nn
from edgeattn.models import create


def strong(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.eval()


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm."""

    def __init__(self, variant, width, **options):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = create(variant, embed_dim=width, num_heads=2, **options)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, **inputs):
        x = x + self.attention(self.norm(x), **inputs)
        return x + self.feed(self.norm2(x))


class Anomaly(nn.Module):
    """How badly each moment of a series is rebuilt from all others, passed through a narrow middle."""

    def __init__(self):
        super().__init__()
        self.into, self.block, self.narrow, self.back = nn.Linear(3, 16), Block("multi_head", 16), nn.Linear(16, 2), nn.Linear(2, 3)

    def forward(self, values):
        level, spread = values.mean(1, keepdim=True), values.std(1, keepdim=True, unbiased=False) + 1e-5
        normal = (values - level) / spread
        rebuilt = self.back(self.narrow(self.block(self.into(normal))))
        return {"rebuilt": rebuilt * spread + level, "score": (rebuilt - normal).square().mean(2)}


class NextItem(nn.Module):
    """What a user takes next, from what was taken so far: SASRec (https://arxiv.org/abs/1808.09781)."""

    def __init__(self, items=40, width=16, longest=50):
        super().__init__()
        self.items, self.places = nn.Embedding(items, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block("causal", width, mask="key_padding") for _ in range(2))

    def forward(self, item_ids, attention_mask):
        x = self.items(item_ids) * 4 + self.places.weight[: item_ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask=attention_mask.bool())
        return {"logits": x @ self.items.weight.T}


def anomaly():
    return strong(Anomaly()), {"values": torch.randn(2, 24, 3).cumsum(1)}, {"values": {0: "batch", 1: "time"}}


def next_item():
    ids = torch.arange(10).reshape(2, 5)
    inputs = {"item_ids": ids, "attention_mask": torch.ones_like(ids)}
    length = torch.export.Dim("sequence", max=50)
    return strong(NextItem()), inputs, {name: {0: "batch", 1: length} for name in inputs}
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "sites", "harmless"),
    [
        ("anomaly", [PLAIN], ()),
        # what is padded behind comes later than anything that is compared
        ("next_item", [SoftmaxAttention(2, 2, 8, pattern=Causal(), mask="key_padding")] * 2, ("mask",)),
    ],
)
def test_an_own_model(factory: str, sites: list[SoftmaxAttention], harmless: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    prove(f"{tmp_path / 'own.py'}:{factory}", tmp_path, sites, harmless)
