"""`edgeattn inspect`: what a bundle, or somebody else's ONNX file, holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeattn.bundle import Bundle, open_bundle
from edgeattn.cli import numbers, options
from edgeattn.cli.inspect_onnx import sections as sections_of_onnx
from edgeattn.cli.table import table
from edgeattn.manifest import ENCODER, Flavour, Manifest, OutputInfo, TensorInfo, describe_sizes
from edgeattn.modalities import Preprocessing
from edgeattn.spec import to_dict


@click.command("inspect")
@click.argument("bundle")
@options.common
def command(bundle: str, as_json: bool) -> None:
    """Show the inputs and outputs of BUNDLE, each attention site with its lowering per runtime, and the flavours.

    BUNDLE may be a .onnx file that anybody exported: shown is which attention it holds, in which form, and what an export
    would change.

    \b
    Example:
      edgeattn inspect out/minilm
      edgeattn inspect out/minilm --json
      edgeattn inspect model.onnx
    """
    if Path(bundle).suffix == ".onnx":
        from edgeattn.exporters.inspecting import inspect_onnx

        found = inspect_onnx(Path(bundle))
        if as_json:
            options.print_json(found.to_dict())
        else:
            click.echo("\n\n".join(sections_of_onnx(found)))
        return
    opened = open_bundle(bundle)
    if as_json:
        options.print_json(_data(opened))
    else:
        click.echo("\n\n".join(_sections(opened)))


def _sections(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    source = ", ".join(f"{name} {value}" for name, value in manifest.source.items())
    head = [f"{bundle.path}: {numbers.size(bundle.size)}, {len(manifest.files)} files, made by edgeattn {manifest.edgeattn}"]
    head += [f"source: {source}"] if source else []
    head += [f"{name}: {value}" for name, value in manifest.provenance.items()]
    parts = [section for name, part in bundle.parts.items() for section in (f"== {name} ==", *_model(part, "generate"))]
    return ["\n".join(head), *parts, *(["== decoder =="] if ENCODER in bundle.parts else []), *_model(bundle)]


def _model(bundle: Bundle, command: str = "run") -> list[str]:
    """One of the bundle's models; `command` is what makes its inputs of data."""
    manifest = bundle.manifest
    missed = "none missed" if not manifest.unraised else f"{len(manifest.unraised)} not raised: {', '.join(manifest.unraised)}"
    return [
        _tensors("input", manifest.inputs),
        _tensors("output", manifest.outputs),
        *_made(manifest, command),
        f"{len(manifest.sites)} attention sites, {missed}",
        *([_sites(bundle)] if manifest.sites else []),
        _flavours(bundle),
        *([_fixed(manifest)] if any(flavour.sizes for flavour in manifest.flavours) else []),
        f"{len(manifest.golden)} golden cases: {'; '.join(numbers.sizes(case.sizes) for case in manifest.golden)}",
    ]


def _tensors(kind: str, infos: Sequence[TensorInfo]) -> str:
    rows = [[info.name, info.dtype, f"[{', '.join(map(str, info.dims))}]", _note(info)] for info in infos]
    return table([kind, "dtype", "shape", "tolerance" if kind == "output" else ""], rows)


def _made(manifest: Manifest, command: str) -> list[str]:
    """Which inputs `command` makes of data, and why it makes none of some."""
    prepared = manifest.preprocessing or Preprocessing()
    listed = manifest.tokenizer.get("inputs")
    text = {"--text" if command == "run" else "its prompt": ", ".join(listed)} if isinstance(listed, dict) else {}
    files = {"--image": prepared.image, "--audio": prepared.audio}
    made = {**text, **{option: settings.input for option, settings in files.items() if settings is not None}}
    lines = [f"edgeattn {command} makes {names} from {option}" for option, names in made.items()]
    lines += [f"no {modality} settings: {reason}" for modality, reason in prepared.refused.items()]
    return ["\n".join(lines)] if lines else []


def _note(info: TensorInfo) -> str:
    return info.tolerance if isinstance(info, OutputInfo) else ""


def _sites(bundle: Bundle) -> str:
    """One line per site with its lowering in every flavour that lowers it; the reasons follow, each said once."""
    flavours = [flavour for flavour in bundle.manifest.flavours if flavour.lowerings]
    rows: list[list[str]] = []
    reasons: dict[str, None] = {}
    for site in bundle.manifest.sites:
        chosen = [flavour.lowerings.get(site.name, "as it is") for flavour in flavours]
        rows.append([site.name, site.module, site.spec.summary(), *chosen])
        for flavour, lowering in zip(flavours, chosen, strict=True):
            if reason := flavour.reasons.get(site.name):
                reasons[f"{lowering} on {flavour.label}: {reason}"] = None
    headers = ["site", "module", "attention", *(flavour.label for flavour in flavours)]
    return "\n".join([table(headers, rows), *(["", *reasons] if reasons else [])])


def _flavours(bundle: Bundle) -> str:
    rows = []
    for flavour in bundle.manifest.flavours:
        domains = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in sorted(flavour.domains.items()))
        parity, size = _parity(flavour), numbers.size(bundle.flavour_size(flavour))
        rows.append([flavour.label, flavour.precision, flavour.file, domains, size, parity, str(len(flavour.probes))])
    return table(["flavour", "precision", "file", "operators", "size", "parity", "probes"], rows, right=["size", "probes"])


def _fixed(manifest: Manifest) -> str:
    choices = list(dict.fromkeys(describe_sizes(flavour.sizes) for flavour in manifest.flavours if flavour.sizes))
    taken = f"feeds are padded up to them in {' and '.join(manifest.pads)}" if manifest.pads else "feeds must have one of them"
    return f"fixed sizes: {'; '.join(choices)}; {taken}"


def _parity(flavour: Flavour) -> str:
    if flavour.quantized is not None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in flavour.quantized.scores.items())
        return f"{scores} ({flavour.quantized.samples} samples), {flavour.quantized.time['ratio']:.2f} of fp32's time"
    if flavour.parity is None:
        return "not measured"
    errors = ", ".join(f"{name} {error:.2e}" for name, error in numbers.grouped(flavour.parity.max_abs_error).items())
    return f"{'passed' if flavour.parity.passed else 'FAILED'}, {flavour.parity.cases} cases, max error {errors or 'unknown'}"


def _data(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    sites = [
        {
            "name": site.name,
            "module": site.module,
            "function": site.function,
            "summary": site.spec.summary(),
            "spec": to_dict(site.spec),
            "lowerings": {flavour.label: flavour.lowerings.get(site.name) for flavour in manifest.flavours},
            "reasons": {flavour.label: flavour.reasons.get(site.name) for flavour in manifest.flavours},
        }
        for site in manifest.sites
    ]
    flavours = [{**dataclasses.asdict(flavour), "size": bundle.flavour_size(flavour)} for flavour in manifest.flavours]
    return {
        "bundle": str(bundle.path),
        "edgeattn": manifest.edgeattn,
        "size": bundle.size,
        "source": manifest.source,
        "provenance": manifest.provenance,
        "inputs": [dataclasses.asdict(info) for info in manifest.inputs],
        "outputs": [dataclasses.asdict(info) for info in manifest.outputs],
        "padding": manifest.padding,
        "limits": manifest.limits,
        "preprocessing": None if manifest.preprocessing is None else dataclasses.asdict(manifest.preprocessing),
        "pads": list(manifest.pads),
        "sites": sites,
        "unraised": list(manifest.unraised),
        "flavours": flavours,
        "golden": [dataclasses.asdict(case) for case in manifest.golden],
        **({"parts": {name: _data(part) for name, part in bundle.parts.items()}} if bundle.parts else {}),
    }
