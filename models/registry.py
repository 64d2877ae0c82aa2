"""Attention variants by name. Listing them needs no torch; making one imports the file that defines it."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import nn

_VARIANTS = {
    "causal": ("causal", "CausalAttention"),
    "cross": ("cross", "CrossAttention"),
    "grouped_query": ("grouped_query", "GroupedQueryAttention"),
    "multi_head": ("multi_head", "MultiHeadAttention"),
    "multi_query": ("multi_query", "MultiQueryAttention"),
    "scaled_dot_product": ("scaled_dot_product", "ScaledDotProductAttention"),
    "self": ("self_attention", "SelfAttention"),
}


def list_variants() -> tuple[str, ...]:
    """Names that `create` knows, sorted."""
    return tuple(sorted(_VARIANTS))


def variant_summary(name: str) -> str:
    """The first line of a variant's file, read without importing torch."""
    module, _ = _VARIANTS[name]
    path = Path(__file__).parent / "attention" / f"{module}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def create(name: str, **options: Any) -> nn.Module:
    """A new module of the variant `name`.

    Raises:
        UsageError: an unknown name, or an option that is unknown, missing or cannot be used.
        SpecError: options that no attention can have together.
    """
    variant = variant_class(name)
    _check_options(name, options, variant_options(name))
    try:
        return variant(**options)
    except TypeError as error:
        raise UsageError(f"variant {name!r}: {error}; it takes {_signature(variant_options(name))}") from error


def variant_class(name: str) -> type[nn.Module]:
    """The class behind a name. Raises UsageError for an unknown one."""
    if name not in _VARIANTS:
        raise unknown("variant", name, _VARIANTS)
    module, cls = _VARIANTS[name]
    found: type[nn.Module] = getattr(importlib.import_module(f"edgeattn.models.attention.{module}"), cls)
    return found


def variant_options(name: str) -> dict[str, bool]:
    """The options of a variant, and whether each must be given."""
    parameters = inspect.signature(variant_class(name)).parameters.values()
    named = {p.name: p.default is p.empty for p in parameters if p.kind is not p.VAR_KEYWORD}
    if len(named) == len(parameters):
        return named
    from edgeattn.models.attention.projected import Options  # imports torch

    return named | dict.fromkeys(Options.__annotations__, False)


def _check_options(name: str, given: dict[str, Any], known: dict[str, bool]) -> None:
    if extra := sorted(set(given) - set(known)):
        raise UsageError(f"{unknown('option', extra[0], known)}; variant {name!r} takes {_signature(known)}")
    if missing := [option for option, needed in known.items() if needed and option not in given]:
        raise UsageError(f"variant {name!r} needs {', '.join(missing)}; it takes {_signature(known)}")


def _signature(known: dict[str, bool]) -> str:
    return ", ".join(option if needed else f"{option}=..." for option, needed in known.items())
