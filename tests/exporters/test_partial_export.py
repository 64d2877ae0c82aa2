"""Partial attention in an exported model: two canonical nodes, merged, equal to PyTorch on every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeattn
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.registry import LOWERINGS
from edgeattn.exporters.probing import Prover
from edgeattn.models.partial import merge_partials, partial_attention
from edgeattn.runtimes import registry
from edgeattn.spec import Causal, SoftmaxAttention

SPEC = SoftmaxAttention(2, 2, 8, mask="key_padding", lse=True)


class TwoParts(nn.Module):
    """Attends to two groups of keys apart, and gives the log-sum-exp too."""

    def forward(self, q: Tensor, near: Tensor, far: Tensor, far_mask: Tensor) -> dict[str, Tensor]:
        everything = torch.ones(near.shape[0], near.shape[2], dtype=torch.bool)
        parts = (partial_attention(q, near, near, SPEC, everything), partial_attention(q, far, far, SPEC, far_mask))
        context, lse = merge_partials(*parts)
        return {"context": context, "lse": lse}


def test_a_merge_of_two_parts_exports_and_passes_parity(tmp_path: Path) -> None:
    q, near, far = (torch.randn(2, 2, length, 8) for length in (5, 4, 7))
    inputs = {"q": q, "near": near, "far": far, "far_mask": torch.rand(2, 7) < 0.6}
    lengths = {"q": "queries", "near": "near_keys", "far": "far_keys"}
    dynamic = {name: {0: "batch", 2: length} for name, length in lengths.items()} | {"far_mask": {0: "batch", 1: "far_keys"}}
    report = edgeattn.export(
        TwoParts(), inputs, output=tmp_path / "b", dynamic=dynamic, runtimes=["onnxruntime:cpu", "openvino:cpu"]
    )
    assert [site.spec for site in report.sites] == [SPEC, SPEC]
    assert not report.unraised
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    expected = {name: value.numpy() for name, value in TwoParts()(**inputs).items()}
    for runtime in ("onnxruntime", "openvino", "reference"):
        with edgeattn.load(tmp_path / "b", runtime) as session:
            for name, value in session.run(feeds).items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "spec", [SPEC, SoftmaxAttention(4, 2, 8, pattern=Causal("lower_right"), bias=True, lse=True)], ids=lambda s: s.summary()
)
def test_both_outputs_are_proven(spec: SoftmaxAttention, runtime: str, tmp_path: Path) -> None:
    result = Prover(tmp_path).prove(LOWERINGS["decomposed"], Core(spec), registry.get(runtime), "cpu")
    assert result.passed, result.reason


def test_forms_without_a_log_sum_exp_refuse() -> None:
    accepting = [name for name, lowering in LOWERINGS.items() if lowering.accepts(Core(SPEC, square=True)) is None]
    assert accepting == ["decomposed"]
