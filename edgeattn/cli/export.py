"""`edgeattn export`: the main job."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli import numbers, options, precision
from edgeattn.cli.table import table
from edgeattn.errors import RuntimeMissingError
from edgeattn.manifest import ENCODER
from edgeattn.progress import progress
from edgeattn.runtimes import registry

if TYPE_CHECKING:
    from edgeattn.exporters.report import ExportReport, FlavourReport

_DEFAULT_RUNTIMES = ("onnxruntime", "openvino")


@click.command("export")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option(
    "-r",
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="RUNTIME[:DEVICE]",
    help="Target to write and prove a flavour for; repeatable. Default: onnxruntime:cpu and openvino:cpu, where installed.",
)
@click.option("--lowering", metavar="NAME", help="Force one lowering at every site; refused where it is not proven.")
@click.option(
    "--static-shapes",
    multiple=True,
    metavar="NAME=N,...",
    callback=lambda _ctx, _parameter, values: [options.parse_sizes(tuple(v.split(",")), "--static-shapes") for v in values],
    help="A fixed size for every dynamic dimension, for targets that need them; repeatable, each one more choice of sizes.",
)
@click.option(
    "--cache",
    type=click.Choice(["dynamic", "none"]),
    help="Whether a language model or encoder-decoder gets its key/value cache as inputs and outputs, for `edgeattn generate`. "
    "Default: dynamic for GGUF files and zoo names, none for folders.",
)
@precision.options
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--keep-failed", is_flag=True, help="Write the bundle though parity failed, to look into it. Still exits with 1.")
@options.common
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    output: Path,
    runtimes: tuple[str, ...],
    lowering: str | None,
    static_shapes: list[dict[str, int]],
    cache: str | None,
    force: bool,
    keep_failed: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Export SOURCE to a bundle and prove every flavour of it equal to the PyTorch model.

    SOURCE is a zoo name (`edgeattn list models`), pkg.mod:factory or path/to/file.py:factory (a function that returns
    (module, inputs) or (module, inputs, dynamic)), a .onnx file, or a local Hugging Face model folder.

    \b
    Example:
      edgeattn export minilm -o out/minilm
      edgeattn export my_model.py:build -o out/mine -r onnxruntime:cpu
      edgeattn export minilm -o out/small --precision auto --min-cosine 0.999
      edgeattn export minilm -o out/npu --static-shapes batch=1,sequence=128 --static-shapes batch=1,sequence=512

    With --static-shapes every flavour has literal dimensions throughout, one file for each choice of sizes beside one weight
    file; feeds run at the smallest that holds them, padded up where the model has a padding mask.

    With --precision auto each runtime's ways to write smaller numbers are tried, by themselves and mixed layer by layer, and
    the fastest that keeps the budget on inputs that the search has not seen is written.

    Exits with 1 when a flavour is not the same model, or no smaller numbers keep the budget and are faster; then nothing is
    written.
    """
    # torch takes seconds to import: not before the arguments are known to be right
    targets = runtimes or _installed()
    with progress() as say:
        say("starting torch")
        from edgeattn.exporters.export import ExportFailedError, export

        wish = precision.wish_of(**asked)
        failure: ExportFailedError | None = None
        try:
            report = export(
                source,
                output=output,
                runtimes=targets,
                lowering=lowering,
                static_shapes=static_shapes,
                cache=None if cache is None else cache == "dynamic",
                wish=wish,
                force=force,
                keep_failed=keep_failed,
                progress=say,
            )
        except ExportFailedError as error:
            failure, report = error, error.report
    if as_json:
        options.print_json(report.to_dict())
    else:
        _print(report)
    if failure is not None:
        raise failure
    ctx.exit(0 if report.passed else 1)


def _installed() -> tuple[str, ...]:
    found = tuple(f"{name}:cpu" for name in _DEFAULT_RUNTIMES if registry.get(name).check().ok)
    if not found:
        raise RuntimeMissingError('no runtime is installed; fix: pip install "edgeattn[onnxruntime]" (or [openvino])')
    return found


def _print(report: ExportReport) -> None:
    for part, each in report.parts.items():
        _print_model(each, f"{report.source}, {part}")
    _print_model(report, f"{report.source}, decoder" if ENCODER in report.parts else report.source)
    for outcome in report.outcomes:
        precision.show(outcome)
    if report.output is None:
        return
    click.echo(f"wrote {report.output} ({numbers.size(report.size)}) in {report.seconds:.0f} s")
    click.echo(f"next: edgeattn bench {report.output}" if report.passed else f"next: edgeattn check {report.output}")


def _print_model(report: ExportReport, name: str) -> None:
    click.echo(f"{name}: {len(report.sites)} attention sites, {len(report.unraised)} missed")
    for spec, count in Counter(site.spec.summary() for site in report.sites).items():
        click.echo(f"  {count} x {spec}")
    for place in report.unraised:
        click.echo(f"  missed: {place}: attention that no site covers; it is exported as the model writes it")
    for modality, reason in report.refused.items():
        click.echo(f"  no {modality} settings in the bundle: {reason}; `edgeattn run` takes arrays")
    click.echo()
    headers = ["flavour", "lowering", "why", "parity", "max error", "size"]
    click.echo(table(headers, [_row(row) for row in report.flavours], right=["size"]))
    for row in report.flavours:
        for reason in dict.fromkeys(row.flavour.reasons.values()):
            for refused in reason.splitlines()[1:]:
                click.echo(f"{row.flavour.label}: {refused}")
    click.echo()


def _row(row: FlavourReport) -> list[str]:
    flavour = row.flavour
    used = Counter(flavour.lowerings.values())
    lowering = ", ".join(f"{name} x{count}" for name, count in used.items()) or "one node per site"
    why = (
        "; ".join(dict.fromkeys(reason.partition("\n")[0] for reason in flavour.reasons.values()))
        or "for inspection and the reference runtime"
    )
    parity = flavour.parity
    errors = ", ".join(f"{name} {error:.1e}" for name, error in numbers.grouped(parity.max_abs_error).items()) if parity else ""
    verdict = f"FAILED: {row.failure}" if row.failure else f"ok ({parity.cases if parity else 0} cases)"
    return [flavour.label, lowering, why, verdict, errors, numbers.size(row.size)]
