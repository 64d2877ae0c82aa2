"""Every attention variant by its name: exported alone and inside a network of two layers, proven on both runtimes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgeattn
from edgeattn.errors import UsageError
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.models import example, list_variants, variant_paper

RUNTIMES = ["onnxruntime:cpu", "openvino:cpu"]
QUICK = {"document"}
"""The rest is slow: an export proves a form at every size on both runtimes."""


class TwoLayers(nn.Module):
    """A variant on top of the same variant, each with weights of its own; between them a map to the width of the input."""

    def __init__(self, layer: nn.Module, inputs: dict[str, Tensor]) -> None:
        super().__init__()
        self.lower, self.upper, self.first = layer, copy.deepcopy(layer), next(iter(inputs))
        with torch.no_grad():
            for weight in self.upper.parameters():
                weight.mul_(0.9)
            self.between = nn.Linear(layer(**inputs).shape[-1], inputs[self.first].shape[-1])

    def forward(self, **inputs: Tensor) -> Tensor:
        x = inputs[self.first]
        hidden = nn.functional.layer_norm(x + self.between(self.lower(**inputs)), x.shape[-1:])
        out: Tensor = self.upper(**{**inputs, self.first: hidden})
        return out


def _names() -> list[object]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in list_variants()]


@pytest.mark.parametrize("name", _names())
def test_a_variant_alone(name: str, tmp_path: Path) -> None:
    report = edgeattn.export(name, output=tmp_path / "b", runtimes=RUNTIMES)
    assert report.passed
    assert report.sites
    assert not report.unraised
    assert edgeattn.check(tmp_path / "b", RUNTIMES).passed


@pytest.mark.parametrize("name", _names())
def test_a_variant_in_two_layers(name: str, tmp_path: Path) -> None:
    module, inputs, dynamic = example(name)
    alone = len(edgeattn.export(name, output=tmp_path / "one", runtimes=RUNTIMES[:1]).sites)
    network = TwoLayers(module.eval(), inputs)
    report = edgeattn.export(network, inputs, output=tmp_path / "two", dynamic=dynamic, runtimes=RUNTIMES)
    assert report.passed
    assert len(report.sites) == 2 * alone
    assert not report.unraised


def test_a_variant_is_a_source() -> None:
    source = resolve("document")
    assert (source.kind, source.name) == ("variant", "document")
    assert source.provenance["paper"] == variant_paper("document")


def test_a_name_that_is_nearly_a_variant() -> None:
    with pytest.raises(UsageError, match="did you mean 'sliding_window'"):
        resolve("sliding_windw")
