"""`edgeattn bench`: the stopwatch."""

from __future__ import annotations

import click

from edgeattn.benchmarking.benchmark import bench
from edgeattn.cli import options
from edgeattn.cli.timings import print_report
from edgeattn.progress import progress


@click.command("bench")
@click.argument("bundle")
@options.runtimes
@options.timing
@options.threads
@options.custom_ops
@options.common
@click.pass_context
def command(
    ctx: click.Context,
    bundle: str,
    runtimes: tuple[str, ...],
    sizes: dict[str, int],
    repeats: int,
    warmup: int,
    threads: int | None,
    custom_ops: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check BUNDLE, then time what passed: latency (interleaved), load time and peak memory (fresh process).

    \b
    Example:
      edgeattn bench out/minilm
      edgeattn bench out/minilm -r onnxruntime:cpu -r openvino:cpu --size batch=8 --size sequence=128

    A target that fails parity gets no latency, and the command exits with 1.
    """
    with progress() as say:
        report = bench(
            bundle,
            runtimes or None,
            sizes or None,
            repeats=repeats,
            warmup=warmup,
            threads=threads,
            custom_ops=custom_ops,
            progress=say,
        )
    if as_json:
        options.print_json(report.to_dict())
    else:
        print_report(report, by_bundle=False)
    ctx.exit(report.exit_code)
