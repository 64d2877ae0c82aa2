"""What can go wrong, as types. Every message says what was got, what was expected and how to fix it.

The command line maps each child to an exit code (`exit_code`): 1 a gate failed, 2 wrong use or bad input, 3 a runtime or
device is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeAttnError(Exception):
    """Base of every error edgeattn raises on purpose."""

    exit_code = 2


class UsageError(EdgeAttnError, ValueError):
    """A name, option or value that cannot be used."""


class SpecError(EdgeAttnError, ValueError):
    """An attention that does not make sense."""


class SourceError(EdgeAttnError):
    """A model that could not be loaded or called."""


class CaptureError(EdgeAttnError):
    """A model that torch.export could not turn into a graph, or a graph that lost something on the way."""


class LoweringError(EdgeAttnError):
    """An attention site that the forced lowering does not accept, or that no proven lowering accepts."""


class BundleError(EdgeAttnError):
    """A bundle that is missing, truncated, edited, foreign or unsafe."""


class FeedError(EdgeAttnError, ValueError):
    """Feeds that do not fit the model's inputs."""


class RuntimeMissingError(EdgeAttnError):
    """A runtime, provider or device that is not there. Never answered by a silent fall-back."""

    exit_code = 3


class RuntimeRunError(EdgeAttnError):
    """A runtime that refused or failed to run a model."""

    exit_code = 1


class GateError(EdgeAttnError):
    """A gate (parity, budget) that did not pass."""

    exit_code = 1


def unknown(kind: str, got: str, known: Iterable[str]) -> UsageError:
    """An error for a name that is not among `known`, with the nearest ones first."""
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} {got!r}; {hint}")
