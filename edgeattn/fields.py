"""Checks of a spec's fields, and tagged unions from JSON: what was got, what was expected."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from edgeattn.errors import SpecError

WHERE_SET = {"where set": True}
"""Metadata of a field that is written only where it says something."""

_T = TypeVar("_T")


def check_int(name: str, value: object, least: int = 1, otherwise: str = "") -> None:
    """Raise SpecError for anything but a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError(f"{name} must be a whole number >= {least}{otherwise}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise SpecError for anything but True and False."""
    if not isinstance(value, bool):
        raise SpecError(f"{name} must be True or False, got {value!r}")


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise SpecError for a value that is not among `allowed`."""
    if value not in allowed:
        raise SpecError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def finite(name: str, value: object, positive: bool = True) -> float:
    """The value as a float, so that 2 and 2.0, and 0.0 and -0.0, have one JSON. Raises SpecError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and abs(value) <= sys.float_info.max and (value > 0 or not positive):  # type: ignore[arg-type, operator]
        return float(value) + 0.0  # type: ignore[arg-type]
    raise SpecError(f"{name} must be a finite number{' > 0' * positive}, got {value!r}")


def construct(what: str, types: Mapping[str, type[_T]], data: Any) -> _T:
    """An object of the type that `data["type"]` names, of the other fields. Raises SpecError."""
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in types:
        raise SpecError(f"expected {what} of type {', '.join(types)}, got {data!r:.80}")
    return build(types[kind], {key: value for key, value in data.items() if key != "type"})


def build(cls: type[_T], fields: dict[str, Any]) -> _T:
    """`cls(**fields)`; an unknown or missing field raises SpecError."""
    try:
        return cls(**fields)
    except TypeError as error:
        raise SpecError(f"{cls.__name__}: {error}") from error
