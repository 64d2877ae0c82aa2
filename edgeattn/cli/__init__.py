"""The command line. Each command is a file of this folder, imported when it is run, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgeattn.cli.group import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `edgeattn` command; leaves the process with the exit code."""
    try:
        cli.main(args=list(arguments) if arguments is not None else None, prog_name="edgeattn")
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        sys.stderr.close()
        sys.exit(1)


__all__ = ["cli", "main"]
