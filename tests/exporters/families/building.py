"""A family's proof: built small from its config, exported, checked, and shown to need everything its specs say."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import transformers

import edgeattn
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.checking import padding_input
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.sites import SPEC_KEY, GraphSite, find_sites
from edgeattn.golden import compare_case, read_case
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import AttentionSpec, Causal, Full, SlidingWindow, function_name, to_json
from edgeattn.tolerance import TABLE

RUNTIMES = ("onnxruntime:cpu", "openvino:cpu")
FAR = 100.0
"""Tolerances by which a lost feature must show."""


@dataclass(frozen=True)
class Family:
    """A transformers class and what its export must find."""

    architecture: str
    config: Mapping[str, Any]
    """Options of the class's config."""
    sites: Sequence[AttentionSpec]
    """The spec of every site, in the graph's order."""
    inputs: Sequence[str] = ("input_ids", "attention_mask")
    outputs: Sequence[str] = ("logits",)
    limits: Mapping[str, int] = field(default_factory=dict)
    """The largest size of each dimension that has one."""
    gain: float = 4.0
    """Factor on every weight matrix: attention far from uniform, so that a lost mask shows."""
    harmless: Collection[str] = ()
    """Features whose loss cannot show in this model; say why where it is used."""
    constants: int = 0
    """Bytes that a graph of one image size keeps beside the weights: masks of its windows, positions of their pixels."""


def save(folder: Path, model: Any, gain: float) -> Path:
    """Write a model folder, its matrices and convolutions scaled by `gain`; one of zeros, which hides what it does, is drawn."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                _ = parameter.mul_(gain) if parameter.any() else parameter.normal_()
    model.save_pretrained(folder)
    return folder


def build(family: Family, folder: Path) -> Path:
    """The family's model folder, always the same numbers."""
    torch.manual_seed(0)
    cls = getattr(transformers, family.architecture)
    return save(folder, cls(cls.config_class(**family.config)), family.gain)


def tiny_bert(folder: Path) -> Path:
    """A BERT of two layers of two heads, 50 tokens and 40 positions."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return save(folder, transformers.BertModel(transformers.BertConfig(**options, max_position_embeddings=40)), gain=6.0)


def prove_family(family: Family, work: Path) -> Bundle:
    """Build, export, check and take apart one family."""
    source = build(family, work / "model")
    bundle = prove(str(source), work, family.sites, family.harmless)
    manifest = bundle.manifest
    assert [info.name for info in manifest.inputs] == list(family.inputs)
    assert [info.name for info in manifest.outputs] == list(family.outputs)
    assert manifest.limits == dict(family.limits)
    stored, given = (path.stat().st_size for path in (bundle.path / "weights-fp32.bin", source / "model.safetensors"))
    assert stored <= given + family.constants, f"weights of {given} bytes, each once, became {stored}"
    return bundle


def prove(source: str, work: Path, sites: Sequence[AttentionSpec], harmless: Collection[str] = ()) -> Bundle:
    """Export `source` for both runtimes: the sites are `sites`, nothing is left unraised, and losing a feature shows.

    The export's gate and `edgeattn.check` compare at every batch and length of the grid, padded rows among them.
    """
    report = edgeattn.export(source, output=work / "bundle", runtimes=RUNTIMES)
    assert [site.spec for site in report.sites] == list(sites)
    assert report.unraised == ()
    bundle = open_bundle(work / "bundle")
    checked = edgeattn.check(bundle)
    assert [(target.target, target.status) for target in checked.targets] == [(name, "passed") for name in RUNTIMES]
    for feature in features(sites):
        lost = error_without(feature, bundle, work)
        assert (lost > FAR) == (feature not in harmless), f"{feature} lost: the error is {lost:.3g} tolerances"
    return bundle


def without(spec: AttentionSpec, feature: str) -> AttentionSpec:
    """`spec` with one feature dropped; itself where it has none of it."""
    match feature:
        case "mask":
            return dataclasses.replace(spec, mask="none")
        case "window" if isinstance(spec.pattern, SlidingWindow):
            return dataclasses.replace(spec, pattern=Causal() if spec.pattern.right == 0 else Full())
        case "causal" if isinstance(spec.pattern, Causal):
            return dataclasses.replace(spec, pattern=Full())
        case "softcap":
            return dataclasses.replace(spec, softcap=None)
        case "bias":
            return dataclasses.replace(spec, bias=False)
        case "sink":
            return dataclasses.replace(spec, sink=False)
    return spec


def features(sites: Sequence[AttentionSpec]) -> list[str]:
    """What at least one of `sites` has and can lose."""
    known = ("mask", "window", "causal", "softcap", "bias", "sink")
    return [feature for feature in known if any(without(spec, feature) != spec for spec in sites)]


def error_without(feature: str, bundle: Bundle, work: Path) -> float:
    """The largest error on ONNX Runtime, in tolerances, when every site of the bundle's model loses `feature`."""
    model = ir.load(bundle.path / "canonical.onnx")
    ir.external_data.load_to_model(model)
    sites = find_sites(model)
    for site in sites:
        _respecify(site, without(site.spec, feature))
    lowered = lower(model, {site.name: get("decomposed") for site in sites}, {})
    path = work / f"without_{feature}.onnx"
    ir.save(lowered, path)
    manifest = bundle.manifest
    worst = 0.0
    with registry.get("onnxruntime").load(path, LoadOptions(device="cpu")) as session:
        for case in manifest.golden:
            golden = read_case(bundle, case)
            used = {info.name: golden.inputs[info.name] for info in session.inputs}
            for row in compare_case(golden, session.run(used), manifest.outputs, padding_input(manifest)):
                rule = TABLE[(row.tolerance, row.dtype)]  # type: ignore[index]
                worst = max(worst, row.required_atol / rule.atol)
    return worst


def _respecify(site: GraphSite, spec: AttentionSpec) -> None:
    """Make the site's node one of `spec`, with those of its inputs that `spec` still has."""
    given = dict(zip(site.spec.input_names, site.node.inputs, strict=True))
    kept = [given[name] for name in spec.input_names]
    for i, value in enumerate(kept):
        site.node.replace_input_with(i, value)
    site.node.resize_inputs(len(kept))
    site.node.op_type = function_name(spec)
    site.node.metadata_props[SPEC_KEY] = to_json(spec)
