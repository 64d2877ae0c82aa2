"""How `bench` and `compare` print what was measured."""

from __future__ import annotations

import click

from edgeattn.benchmarking.benchmark import BenchReport, Row
from edgeattn.cli import numbers
from edgeattn.cli.table import table

_NUMBERS = ["max error", "median ms", "p90", "p99", "load s", "peak MB", "size", "ratio", "95 % interval"]


def print_report(report: BenchReport, by_bundle: bool) -> None:
    """The table, what each number was measured with, and the machine. `by_bundle` adds the bundle's column."""
    headers = ["bundle", "target", "flavour", "parity", *_NUMBERS, "verdict"]
    rows = [_cells(row, first=row is _first(report)) for row in report.rows]
    skip = 0 if by_bundle else 1
    click.echo(f"{numbers.sizes(report.sizes)}\n")
    click.echo(table(headers[skip:], [row[skip:] for row in rows], right=_NUMBERS))
    click.echo()
    for row in report.rows:
        head = f"{row.bundle} {row.target}" if by_bundle else row.target
        if row.effective:
            click.echo(f"{head}: {row.effective}")
        if row.parity.fixed:
            click.echo(
                f"{head}: runs at the smallest that holds the feeds of {'; '.join(map(numbers.sizes, row.parity.fixed))}"
            )
        if row.reason:
            click.echo(f"{head}: {row.reason}")
    facts = report.machine
    click.echo(
        f"machine: {facts['cpu']}, {facts['cores usable']} cores, quota {facts['cgroup quota']}, "
        f"governor {facts['governor']}, {facts['memory']}"
    )


def _first(report: BenchReport) -> Row | None:
    return next((row for row in report.rows if row.latency), None)


def _cells(row: Row, first: bool) -> list[str]:
    parity, errors = row.parity, row.parity.worst()
    head = [row.bundle, row.target, parity.flavour or "-", parity.status, f"{max(errors.values()):.2e}" if errors else "-"]
    size = numbers.size(row.size) if row.size else "-"
    if row.latency is None:
        return [*head, "-", "-", "-", "-", "-", size, "-", "-", "not timed"]
    times = [f"{value:.3f}" for value in (row.latency.median_ms, row.latency.p90_ms, row.latency.p99_ms)]
    fresh = (
        [numbers.optional(row.fresh.load_s, ".2f"), numbers.optional(row.fresh.peak_rss_mb, ".0f")] if row.fresh else ["-", "-"]
    )
    if row.ratio is None:
        return [*head, *times, *fresh, size, "1.00", "-", "baseline" if first else "-"]
    interval = f"{row.ratio.low:.2f}..{row.ratio.high:.2f}"
    return [*head, *times, *fresh, size, f"{row.ratio.value:.2f}", interval, row.ratio.verdict]
