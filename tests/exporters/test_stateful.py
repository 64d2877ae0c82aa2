"""A form in which OpenVINO keeps a decoder's cache: what it takes, that it is proven, and that it leaves nothing where it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from edgeattn.exporters.choose import Choice
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.stateful import probe
from edgeattn.exporters.stateful.flavour import stateful_flavour
from edgeattn.exporters.stateful.model import FORM, Stateful
from edgeattn.manifest import Flavour
from edgeattn.probe import run_probe
from edgeattn.runtimes import registry
from edgeattn.spec import AttentionSpec, Causal, SlidingWindow, SoftmaxAttention

CAUSAL = SoftmaxAttention(4, 2, 16, pattern=Causal(alignment="lower_right"), mask="key_padding")
OPENVINO = registry.get("openvino")


@pytest.mark.parametrize(
    "spec",
    [
        CAUSAL,
        replace(CAUSAL, pattern=SlidingWindow(6, 0, alignment="lower_right")),
        replace(CAUSAL, bias=True),
        replace(CAUSAL, kv_heads=1, value_head_dim=8, mask="dense"),
        SoftmaxAttention(4, 4, 20),
    ],
    ids=["causal", "window", "bias of each head", "values of another size", "open"],
)
def test_what_it_takes_is_proven(tmp_path: Path, spec: AttentionSpec) -> None:
    assert FORM.accepts(Core(spec, cached=True)) is None
    assert probe.prove([Core(spec, cached=True)], tmp_path, OPENVINO, "cpu") == ""


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        (Core(CAUSAL), "no cache"),
        (Core(replace(CAUSAL, softcap=20.0), cached=True), "softcap"),
        (Core(replace(CAUSAL, sink=True), cached=True), "sink"),
    ],
)
def test_what_it_refuses(core: Core, reason: str) -> None:
    assert reason in str(FORM.accepts(core))


def test_a_wrong_form_is_not_proven(tmp_path: Path) -> None:
    """The probe of a window says that it is not the whole past."""
    window = replace(CAUSAL, pattern=SlidingWindow(6, 0, alignment="lower_right"))
    path = probe.probe_file(Core(CAUSAL, cached=True), tmp_path)
    result = run_probe(OPENVINO, "cpu", path, window, cached=True)
    assert not result.passed
    assert "wrong values" in result.reason


def _model(folder: Path) -> Stateful:
    """A model of one site, beside a weight file that holds something else."""
    model = probe.canonical_probe(Core(CAUSAL, cached=True))
    weights = folder / "weights-fp32.bin"
    weights.write_bytes(b"others")
    return Stateful(model, *probe.signature(model), {}, weights)


def test_a_form_that_fails_its_gate_leaves_nothing(tmp_path: Path) -> None:
    model, path = _model(tmp_path), tmp_path / "openvino-cpu.xml"
    seen: list[set[str]] = []

    def gate(domains: dict[str, int], choices: dict[str, Choice]) -> FlavourReport:
        seen.append({file.name for file in tmp_path.iterdir() if file.is_file()})
        assert model.weights.stat().st_size > 64
        flavour = Flavour("openvino:cpu", "fp32", path.name, domains, {}, {name: c.reason for name, c in choices.items()})
        return FlavourReport(flavour, 0, "logits differ")

    assert stateful_flavour(model, path, tmp_path / "probes", OPENVINO, "cpu", gate) == "logits differ"
    assert seen == [{path.name, model.weights.name}]
    assert model.weights.read_bytes() == b"others"
    assert not path.exists()


def test_a_cache_that_something_else_reads(tmp_path: Path) -> None:
    model = _model(tmp_path)
    site = find_sites(model.canonical)[0]
    assert site.cache is not None
    spare = ir.node("Identity", [site.cache.keys.past])
    model.canonical.graph.append(spare)
    model.canonical.graph.outputs.append(spare.outputs[0])
    assert "no cache" in model.refusal()
