"""The group of commands: loads each by name, and turns errors into one line and an exit code."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from edgeattn.errors import EdgeAttnError, unknown

COMMANDS = {
    "estimate": "Estimate the memory a model will need, before any export.",
    "export": "Export a model to a bundle, proven equal to PyTorch.",
    "check": "Prove a bundle's parity with PyTorch on this machine.",
    "bench": "Time a bundle on runtimes, after checking it.",
    "compare": "Compare bundles and runtimes: parity, latency, ratio.",
    "run": "Run a bundle once on arrays or text.",
    "generate": "Continue a text with a language model, token by token.",
    "inspect": "Show what a bundle holds: inputs, attention sites, flavours.",
    "list": "List variants, runtimes, lowerings or models.",
    "doctor": "Show what this machine has and what is missing.",
}
"""Name -> the line in `edgeattn --help`. The command `x` is the object `command` of module `edgeattn.cli.x`."""

DEBUG = "edgeattn.debug"
"""Key in the root context: True shows tracebacks."""


class Commands(click.Group):
    """Commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a user's first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"edgeattn.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table as it is, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; an unknown command is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors that edgeattn raises on purpose, and those of the file system, end without a traceback."""
        try:
            return super().invoke(ctx)
        except (EdgeAttnError, OSError) as error:
            if ctx.meta.get(DEBUG) or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code if isinstance(error, EdgeAttnError) else 2)


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        import edgeattn

        click.echo(f"edgeattn {edgeattn.__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """From a PyTorch model with attention to a file an edge device runs fast, proven to be the same model.

    \b
    Example:
      edgeattn export minilm -o out/minilm
      edgeattn check out/minilm
      edgeattn bench out/minilm

    \b
    Exit codes: 0 fine, 1 a gate failed (parity, budget), 2 wrong use or bad input, 3 a runtime or device is missing.
    """
    if debug:
        ctx.meta[DEBUG] = True
