"""The main job: a source becomes a bundle whose every flavour is proven equal to the PyTorch model."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import torch

from edgeattn.bundle import check_output, weights_name, writing
from edgeattn.errors import GateError, UsageError
from edgeattn.exporters.capture import capture
from edgeattn.exporters.flavours import FlavourWriter, Progress
from edgeattn.exporters.job import Job
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.quantize.stage import Wish, shrink
from edgeattn.exporters.reference_run import run_reference
from edgeattn.exporters.report import ExportReport, FlavourReport
from edgeattn.exporters.signature import Signature
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.module import DynamicAxes, from_module
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.exporters.static_shapes import Bucket, Shapes, check_shapes, exact_cases
from edgeattn.exporters.weights import store_weights
from edgeattn.manifest import FP32, Manifest
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Runtime


def export(
    model: str | torch.nn.Module,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    output: str | os.PathLike[str],
    runtimes: Sequence[str] = ("onnxruntime:cpu",),
    dynamic: DynamicAxes | None = None,
    lowering: str | None = None,
    static_shapes: Shapes = (),
    cache: bool | None = None,
    wish: Wish | None = None,
    force: bool = False,
    keep_failed: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export `model` to a bundle at `output`.

    Args:
        model: a source as on the command line (a zoo name, a factory, a folder), or a live module.
        inputs: for a live module, input name -> example tensor; the module is called with them by keyword.
        output: the bundle folder to write; it appears only when everything went well.
        runtimes: targets `name:device`; each gets a flavour of its own, beside the portable and the canonical one.
        dynamic: for a live module, input name -> {axis: symbol}.
        lowering: force one lowering at every site.
        static_shapes: fixed sizes, each a size for every dynamic dimension, for targets that take no dynamic ones: a flavour is
            written for each of them, with literal dimensions throughout. Without any, flavours take every size.
        cache: whether a causal language model or an encoder-decoder gets its key/value cache as inputs and outputs, for generation;
            an encoder then becomes a part of the bundle, since it runs once. By default where the source is made for it (a GGUF
            file, a zoo name).
        wish: the smaller numbers that are asked for, with the budget that they have to keep; full precision by default.
        force: replace an existing bundle.
        keep_failed: write the bundle although a gate failed, with the failure recorded, so that it can be looked into.

    Raises:
        UsageError, SourceError, CaptureError, LoweringError, RuntimeMissingError: see each.
        GateError: a flavour is not equal to the PyTorch model; nothing is written unless `keep_failed`. No smaller numbers
            keep the budget of `wish`, or none of those are faster.
    """
    started = time.perf_counter()
    say = progress or (lambda _: None)
    out = Path(output)
    check_output(out, force)
    targets = _targets(runtimes)
    _check_known(wish, targets, lowering)
    with ExitStack() as stack:
        if isinstance(model, torch.nn.Module):
            stack.enter_context(modes_kept(model))
        say("loading the model")
        source = as_source(model, inputs, dynamic, cache)
        _check_goes_together(source, wish, static_shapes)
        captured = [_captured(each, static_shapes, say) for each in (*source.parts.values(), source)]
        work = stack.enter_context(writing(out, force))
        store_weights([model for model, _ in captured], work, weights_name(FP32))
        prover = Prover(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        report = ExportReport(source.name, out, (), (), (), 0, 0.0)
        for (part, each), (canonical, buckets) in zip([*source.parts.items(), ("", source)], captured, strict=True):
            writer = FlavourWriter(Signature.of(each, canonical), targets, lowering, work, prover, say, part)
            rows, manifest = Job(each, canonical, buckets, writer).write()
            made = _report(replace(report, seconds=time.perf_counter() - started), rows, manifest)
            report = made if not part else replace(report, parts={**report.parts, part: made})
        if not report.passed and not keep_failed:
            raise ExportFailedError(replace(report, output=None))
        if wish is not None and wish.kinds and report.passed:
            outcomes, manifest = shrink(work, targets, wish, source.texts, say)
            report = replace(report, outcomes=tuple(outcomes), size=_size(manifest), seconds=time.perf_counter() - started)
            if any(outcome.reason for outcome in outcomes):
                raise ExportFailedError(replace(report, output=None))
    return report


def _check_known(wish: Wish | None, targets: Sequence[tuple[Runtime, str]], lowering: str | None) -> None:
    """Raises UsageError for what is not there, whatever the model."""
    if wish is not None:
        wish.check(targets)
    if lowering is not None:
        get(lowering)


def _check_goes_together(source: Source, wish: Wish | None, static_shapes: Shapes) -> None:
    """Raises UsageError where the source cannot have what was asked for."""
    beside = f"{source.name} has a model beside it ({', '.join(source.parts)})" if source.parts else ""
    if wish is not None and wish.kinds and (beside or static_shapes):
        raise UsageError(
            f"{beside or 'sizes are fixed'}; smaller numbers are for a single model that takes any size: leave out --precision"
        )
    if static_shapes and beside:
        raise UsageError(f"{beside}; fixed sizes are for --cache none")


def _captured(source: Source, static_shapes: Shapes, say: Progress) -> tuple[ir.Model, list[Bucket]]:
    """The canonical model of `source`, and what PyTorch says at each choice of sizes."""
    shapes = check_shapes(static_shapes, source.dimensions) if static_shapes else []
    say(f"running {source.reference}, the reference")
    buckets = exact_cases(source, shapes) if shapes else [Bucket({}, run_reference(source))]
    say("capturing the graph")
    return capture(source, list(buckets[0].cases[0].outputs)), buckets


def _report(report: ExportReport, rows: Sequence[FlavourReport], manifest: Manifest) -> ExportReport:
    """What was written of one model, with the parts that came before it."""
    return replace(
        report,
        sites=manifest.sites,
        unraised=manifest.unraised,
        flavours=tuple(rows),
        size=_size(manifest),
        refused=manifest.preprocessing.refused if manifest.preprocessing else {},
    )


def _size(manifest: Manifest) -> int:
    return sum(entry.size for entry in manifest.files.values())


class ExportFailedError(GateError):
    """The gate of an export failed; `report` says which flavour, by how much."""

    def __init__(self, report: ExportReport) -> None:
        failed = "not the same model as in PyTorch; nothing was written (--keep-failed keeps it to look into)"
        refused = "no smaller numbers were found that keep what was asked; nothing was written"
        super().__init__((failed if report.failures else refused) + ":\n  " + "\n  ".join(report.failures or report.refusals))
        self.report = report


def _targets(names: Sequence[str]) -> list[tuple[Runtime, str]]:
    """Parsed and present, before any long work."""
    targets = [registry.parse_target(name) for name in dict.fromkeys(names)]
    if not targets:
        raise UsageError("no runtime was asked for; pass at least one, such as onnxruntime:cpu")
    for runtime, device in targets:
        if runtime.canonical:
            raise UsageError(f"every bundle holds a flavour for {runtime.name}; ask for the runtimes you deploy on")
        runtime.require(device)
    return targets


def as_source(
    model: str | torch.nn.Module,
    inputs: Mapping[str, torch.Tensor] | None,
    dynamic: DynamicAxes | None,
    cache: bool | None = None,
) -> Source:
    """What `export` was given. Raises UsageError where the arguments do not go together."""
    if isinstance(model, str):
        if inputs is not None or dynamic is not None:
            raise UsageError(f"{model!r} brings its own inputs and dynamic axes; pass them only with a live module")
        return resolve(model, cache)
    if inputs is None:
        raise UsageError("a live module needs example inputs: export(module, {'x': tensor}, output=...)")
    if cache:
        raise UsageError("a live module is exported as it is called; a cache is for sources given by name")
    return from_module(model, inputs, dynamic)


@contextmanager
def modes_kept(module: torch.nn.Module) -> Iterator[None]:
    """A live module is exported in eval mode and handed back as it was, each part in the mode it had."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
