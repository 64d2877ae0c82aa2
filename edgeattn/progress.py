"""What is being done, on stderr: one moving line in a terminal that has rich, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str], None]


@contextmanager
def progress() -> Iterator[Progress]:
    """A function that tells the user the present step. What it showed in a terminal is gone at the end."""
    if sys.stderr.isatty():
        try:
            from rich.console import Console
        except ImportError:
            yield _plain
            return
        with Console(stderr=True).status("") as status:
            yield lambda text: status.update(f"{text} ...")
    else:
        yield _plain


def _plain(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)
