"""`edgeattn estimate`: the memory a model will need, before any export."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from edgeattn.cli import numbers, options
from edgeattn.cli.table import table
from edgeattn.errors import UsageError
from edgeattn.progress import progress

if TYPE_CHECKING:
    from edgeattn.exporters.estimate import Estimate, Row

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@click.command("estimate")
@click.argument("source")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=N",
    callback=lambda _ctx, _parameter, value: options.parse_sizes(value),
    help="Size of a dynamic dimension; repeatable. Default: batch=1 and sequence=128.",
)
@click.option("--precision", metavar="NAME", help="Only this one of fp32, fp16, int8, int4. Default: all of them.")
@click.option(
    "--memory",
    metavar="SIZE",
    callback=lambda _ctx, _parameter, value: None if value is None else parse_memory(value),
    help="Memory there is, such as 512M (10^6 bytes each) or 2Gi; exits with 1 where the model does not fit.",
)
@click.option("-r", "--runtime", default="onnxruntime:cpu", show_default=True, metavar="RUNTIME[:DEVICE]")
@options.common
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    sizes: dict[str, int],
    precision: str | None,
    memory: int | None,
    runtime: str,
    as_json: bool,
) -> None:
    """Estimate the memory that SOURCE needs on a device: weights, activations, KV cache and all of it, in each precision.

    SOURCE is what `edgeattn export` takes. Nothing is run and nothing is written. The runtime's own memory is not counted:
    `edgeattn bench` measures that.

    \b
    Example:
      edgeattn estimate minilm --size batch=1 --size sequence=512
      edgeattn estimate my_model.py:build --precision int8 --memory 512M

    Exits with 1 when no precision, or not the one asked for, fits --memory.
    """
    with progress() as say:
        say("starting torch")
        from edgeattn.exporters.estimate import estimate
        from edgeattn.exporters.weight_size import PRECISIONS

        asked = PRECISIONS if precision is None else (precision,)
        found = estimate(source, sizes=sizes, precisions=asked, runtime=runtime, memory=memory, progress=say)
    if as_json:
        options.print_json(found.to_dict())
    else:
        _print(found)
    ctx.exit(0 if found.fits else 1)


def parse_memory(text: str) -> int:
    """Bytes of `512M`, `512MB` (10^6 each), `2Gi` or `2GiB` (2^30 each). Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]I?)?B?", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"--memory {text!r}: expected a size above 0 such as 512M, 1.5G or 512Mi")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _print(found: Estimate) -> None:
    forms = ", ".join(f"{name} x{count}" for name, count in found.lowerings.items()) or "none"
    click.echo(f"{found.source} at {numbers.sizes(found.sizes)}, on {found.runtime}")
    click.echo(f"{found.parameters:,} parameters; {sum(found.lowerings.values())} attention sites: {forms}")
    click.echo(f"most activations at {found.at}\n")
    headers = ["precision", "weights", "activations", "in attention", "KV per token", "KV cache", "peak"]
    fits = [] if found.memory is None else [f"fits {numbers.size(found.memory)}"]
    rows = [_row(row, found.memory) for row in found.rows]
    click.echo(table([*headers, *fits], rows, right=headers[1:]))
    click.echo("\nnot counted: the runtime itself, and copies of weights that it packs")


def _row(row: Row, memory: int | None) -> list[str]:
    kept = [numbers.size(row.cache_per_token), numbers.size(row.cache)] if row.cache else ["-", "-"]
    counted = [numbers.size(row.weights), numbers.size(row.activations), numbers.size(row.scratch), *kept]
    verdict = [] if memory is None else ["yes" if row.peak <= memory else "NO"]
    return [row.precision, *counted, numbers.size(row.peak), *verdict]
