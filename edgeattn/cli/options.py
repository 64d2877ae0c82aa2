"""Options that several commands share, and the way they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeattn.cli.group import DEBUG
from edgeattn.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


def common(function: _F) -> _F:
    """`--json` (as the argument `as_json`) and `--debug`, which every command has."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead of tables.")(function)
    return click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error.")(
        function
    )


def runtimes(function: _F) -> _F:
    """`-r`, repeatable, as `runtimes`."""
    return click.option(
        "-r",
        "--runtime",
        "runtimes",
        multiple=True,
        metavar="RUNTIME[:DEVICE]",
        help="Runtime and device, such as onnxruntime:cpu; repeatable. Default: every one the bundle was made for.",
    )(function)


def threads(function: _F) -> _F:
    """`--threads`."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help="CPU threads. Default: what this process may use (its cgroup quota)."
    )(function)


def precision(function: _F) -> _F:
    """`--precision`."""
    return click.option(
        "--precision", metavar="NAME", help="fp32, int8, ... where the bundle has several. Default: what its export found best."
    )(function)


def custom_ops(function: _F) -> _F:
    """`--custom-ops`, repeatable."""
    return click.option(
        "--custom-ops",
        "custom_ops",
        multiple=True,
        metavar="FILE",
        help="Native library with kernels for the model's custom operators, for onnxruntime; repeatable. Its code is run.",
    )(function)


def timing(function: _F) -> _F:
    """`--size`, `--repeats` and `--warmup`."""
    function = click.option("--warmup", type=click.IntRange(min=0), default=5, show_default=True, help="Rounds not counted.")(
        function
    )
    function = click.option("--repeats", type=click.IntRange(min=1), default=50, show_default=True, help="Rounds timed.")(
        function
    )
    return click.option(
        "--size",
        "sizes",
        multiple=True,
        metavar="NAME=N",
        callback=lambda _ctx, _parameter, value: parse_sizes(value),
        help="Size of a dynamic dimension; repeatable. Default: batch=1 and sequence=128.",
    )(function)


def parse_sizes(values: tuple[str, ...], option: str = "--size") -> dict[str, int]:
    """`("batch=8", "sequence=64")` as a dict. Raises UsageError, which names the option."""
    sizes: dict[str, int] = {}
    for value in values:
        name, _, number = value.strip().partition("=")
        if not name or not number.isdecimal():
            raise UsageError(f"{option} {value!r}: expected NAME=N with a whole number, such as batch=8")
        if name in sizes:
            raise UsageError(f"{option} gives {name} twice, {sizes[name]} and {number}; give it once")
        sizes[name] = int(number)
    return sizes


def print_json(data: Any) -> None:
    """Strict JSON to stdout."""
    click.echo(json.dumps(data, indent=1, allow_nan=False))


def _debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True
