"""Fixtures that more than one folder needs: real bundles, exported once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY_SOURCE = '''
import torch
from torch import nn
from edgeattn.models import create


class Encoder(nn.Module):
    """Two layers: grouped-query attention with a padding mask, then causal attention of torch's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 32)
        self.first = create("grouped_query", embed_dim=32, num_heads=4, num_kv_heads=2, mask="key_padding")
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        with torch.no_grad():  # scores of several units: attention far from uniform, so that a lost mask shows
            for weight in (self.first.q_proj.weight, self.first.k_proj.weight, self.qkv.weight):
                weight.mul_(4.0)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x = x + self.first(x, mask=attention_mask.bool())
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, 16).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return {"hidden": x + self.out(y.transpose(1, 2).reshape(batch, length, 32))}


def build():
    ids = torch.arange(10).reshape(2, 5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    sequence = torch.export.Dim("sequence", max=160)
    return Encoder(), inputs, {name: {0: "batch", 1: sequence} for name in inputs}
'''
"""A factory file whose model has attention of both kinds that are raised: our own operator and torch's."""


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`file.py:factory` of a small real model."""
    path = tmp_path_factory.mktemp("source") / "tiny_model.py"
    path.write_text(TINY_SOURCE)
    return f"{path}:build"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model exported for both runtimes. Do not write into it: copy it first."""
    from edgeattn import export

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    export(tiny_source, output=output, runtimes=["onnxruntime:cpu", "openvino:cpu"])
    return output


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 exported for both runtimes. Do not write into it: copy it first."""
    from edgeattn import export
    from edgeattn.exporters.sources.zoo import DEMO_COMMAND, MODELS

    if MODELS["minilm"].path() is None:
        pytest.skip(f"the demo model is not installed; {DEMO_COMMAND}")
    output = tmp_path_factory.mktemp("bundles") / "minilm"
    export("minilm", output=output, runtimes=["onnxruntime:cpu", "openvino:cpu"])
    return output
