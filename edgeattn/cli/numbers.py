"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping


def size(count: int) -> str:
    """Bytes: `90.4 MB` (10**6)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def sizes(values: Mapping[str, int]) -> str:
    """`batch 1, sequence 128`."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "fixed"


def optional(value: float | None, form: str = ".1f") -> str:
    """A number, or `-` where there is none."""
    return "-" if value is None else format(value, form)


def kind(output: str) -> str:
    """What outputs that are many of a kind share: `present.*` for `present.0.key`."""
    return f"{output.partition('.')[0]}.*" if "." in output else output


def grouped(errors: Mapping[str, float]) -> dict[str, float]:
    """The worst error of each kind of output."""
    worst: dict[str, float] = {}
    for name, error in errors.items():
        worst[kind(name)] = max(error, worst.get(kind(name), error))
    return worst
