"""`edgeattn compare`: bundles against bundles, runtimes against runtimes."""

from __future__ import annotations

import click

from edgeattn.cli import options
from edgeattn.cli.timings import print_report
from edgeattn.comparing import compare
from edgeattn.progress import progress


@click.command("compare")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@options.runtimes
@options.timing
@options.threads
@options.common
@click.pass_context
def command(
    ctx: click.Context,
    bundles: tuple[str, ...],
    runtimes: tuple[str, ...],
    sizes: dict[str, int],
    repeats: int,
    warmup: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Parity and latency of every BUNDLE on every runtime, timed in the same rounds, with the ratio to the first row.

    The interval holds the true ratio 95 times in 100; a verdict is given only where it lies wholly on one side of 1.

    \b
    Example:
      edgeattn compare out/minilm -r onnxruntime:cpu -r openvino:cpu
      edgeattn compare out/old out/new -r onnxruntime:cpu --size batch=8
    """
    with progress() as say:
        report = compare(
            list(bundles), runtimes or None, sizes or None, repeats=repeats, warmup=warmup, threads=threads, progress=say
        )
    if as_json:
        options.print_json(report.to_dict())
    else:
        print_report(report, by_bundle=True)
    ctx.exit(report.exit_code)
