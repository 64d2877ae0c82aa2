"""`edgeattn check`: the parity gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click

from edgeattn.checking import CheckReport, TargetCheck, check
from edgeattn.cli import numbers, options
from edgeattn.cli.table import table
from edgeattn.parity import Comparison
from edgeattn.progress import progress


@click.command("check")
@click.argument("bundle")
@options.runtimes
@options.threads
@options.custom_ops
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write JUnit XML.")
@options.common
@click.pass_context
def command(
    ctx: click.Context,
    bundle: str,
    runtimes: tuple[str, ...],
    threads: int | None,
    custom_ops: tuple[str, ...],
    junit: Path | None,
    as_json: bool,
) -> None:
    """Run every golden case of BUNDLE and compare with PyTorch's outputs, on this machine, without PyTorch.

    \b
    Example:
      edgeattn check out/minilm
      edgeattn check out/minilm -r onnxruntime:cpu --junit parity.xml

    Exits with 1 when values differ, 2 when the bundle is edited or foreign, 3 when a runtime is missing.
    """
    with progress() as say:
        report = check(bundle, runtimes or None, threads=threads, custom_ops=custom_ops, progress=say)
    if junit:
        from edgeattn.junit import write_junit

        write_junit(report, junit)
    if as_json:
        options.print_json(report.to_dict())
    else:
        _print(report)
    ctx.exit(report.exit_code)


def _print(report: CheckReport) -> None:
    for target in report.targets:
        flavour = f" (flavour {target.flavour}, {target.precision})" if target.flavour else ""
        click.echo(f"{target.label}{flavour}: {target.status.upper()}{f', {target.reason}' if target.reason else ''}")
        if target.effective:
            click.echo(f"  {target.effective}")
        if target.fixed:
            click.echo(f"  fixed sizes: {'; '.join(map(numbers.sizes, target.fixed))}")
        if target.cases:
            click.echo(_cases(target) + "\n")
    click.echo(f"parity: {'PASSED' if report.passed else 'FAILED'}, {report.bundle}")


def _cases(target: TargetCheck) -> str:
    rows = []
    for case in target.cases:
        for name, c in _by_kind(case.comparisons).items():
            worst = _number(c.max_abs), _number(c.mean_abs), "-" if math.isnan(c.sqnr_db) else f"{c.sqnr_db:.1f}"
            verdict = "ok" if c.passed else f"FAILED: {c.reason}"
            shown = name if c.passed else c.output
            rows.append([case.name, numbers.sizes(case.sizes), shown, *worst, _number(c.required_atol), verdict])
        for metric, value in case.scores.items():
            verdict = f"FAILED: {case.reason}" if case.reason else f"{value:.6g}"
            rows.append([case.name, numbers.sizes(case.sizes), metric, *["-"] * 4, verdict])
        if not case.comparisons and not case.scores:
            rows.append([case.name, numbers.sizes(case.sizes), *["-"] * 5, f"FAILED: {case.reason or 'nothing was compared'}"])
    headers = ["case", "sizes", "output", "max error", "mean", "SQNR dB", "needs atol", "result"]
    return table(headers, rows, right=["max error", "mean", "SQNR dB", "needs atol"])


def _by_kind(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """One comparison for outputs that are many of a kind, such as a cache: one that failed, else the worst."""
    worst: dict[str, Comparison] = {}
    for c in comparisons:
        kind = numbers.kind(c.output)
        known = worst.setdefault(kind, c)
        if (not c.passed, c.required_atol) > (not known.passed, known.required_atol):
            worst[kind] = c
    return worst


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2e}"
