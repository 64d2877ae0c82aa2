"""Attention variants by name: every class in `attention/` with the mark `@variant`. Finding them needs no torch.

A file is read, not run; making a variant imports the file that defines it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.errors import UsageError, unknown
from edgeattn.models import attention

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Variant:
    """What a file says about a variant."""

    module: str
    """Name of the file in `edgeattn.models.attention`."""
    cls: str
    summary: str
    paper: str
    options: dict[str, Any]
    """Of a small example."""


def list_variants() -> tuple[str, ...]:
    """Names that `create` knows, sorted."""
    return tuple(sorted(_variants()))


def variant_summary(name: str) -> str:
    """The first line of a variant's file. Raises UsageError for an unknown name."""
    return _find(name).summary


def variant_paper(name: str) -> str:
    """Where a variant comes from: the first address in its file's docstring. Raises UsageError for an unknown name."""
    return _find(name).paper


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


def example(name: str, sequence: int = 6, batch: int = 2) -> tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, Any]]]:
    """A small module of the variant `name` with inputs, as `edgeattn.export` takes them: (module, inputs, dynamic).

    Always the same weights and inputs. A second sequence, where there is one, is longer by one.

    Raises:
        UsageError: an unknown name, or a size that the example cannot have.
    """
    from edgeattn.models import examples  # imports torch

    return examples.build(create, name, example_options(name), sequence, batch)


def example_options(name: str) -> dict[str, Any]:
    """The options `example` makes a variant with. Raises UsageError for an unknown name."""
    return dict(_find(name).options)


def variant_class(name: str) -> type[nn.Module]:
    """The class behind a name. Raises UsageError for an unknown one."""
    found = _find(name)
    cls: type[nn.Module] = getattr(importlib.import_module(f"{attention.__name__}.{found.module}"), found.cls)
    return cls


def variant_options(name: str) -> dict[str, bool]:
    """The options of a variant, and whether each must be given. Raises UsageError for an unknown name."""
    cls = variant_class(name)
    parameters = inspect.signature(cls).parameters.values()
    named = {p.name: p.default is p.empty for p in parameters if p.kind is not p.VAR_KEYWORD}
    shared = [typing.get_type_hints(cls.__init__)[p.name] for p in parameters if p.kind is p.VAR_KEYWORD]
    return named | {option: False for unpacked in shared for option in typing.get_args(unpacked)[0].__annotations__}


def _find(name: str) -> Variant:
    variants = _variants()
    if name not in variants:
        raise unknown("variant", name, variants)
    return variants[name]


def _variants() -> Mapping[str, Variant]:
    return _read(tuple(attention.__path__))


@functools.cache
def _read(folders: tuple[str, ...]) -> Mapping[str, Variant]:
    found: dict[str, Variant] = {}
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for name, variant in _marked(tree, path):
            if name in found:
                raise UsageError(f"two variants are called {name!r}: {found[name].module}.py and {path.name}; rename one")
            found[name] = variant
    return found


def _marked(tree: ast.Module, path: Path) -> Iterator[tuple[str, Variant]]:
    text = ast.get_docstring(tree) or ""
    address = re.search(r"https?://[^\s)>,;]+", text)
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for mark in cls.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "variant":
                name, options = _arguments(mark, path)
                yield name, Variant(path.stem, cls.name, text.partition("\n")[0], address.group() if address else "", options)


def _arguments(mark: ast.Call, path: Path) -> tuple[str, dict[str, Any]]:
    """Name and example options of `@variant(name, option=...)`."""
    try:
        (name,) = (ast.literal_eval(argument) for argument in mark.args)
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in mark.keywords}
    except ValueError as error:
        raise UsageError(
            f'{path}:{mark.lineno}: expected @variant("name", option=literal, ...), got {ast.unparse(mark)}'
        ) from error
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UsageError(f"{path}:{mark.lineno}: a variant is named like_this, got {name!r}")
    return name, options


def _check_options(name: str, given: dict[str, Any], known: dict[str, bool]) -> None:
    if extra := sorted(set(given) - set(known)):
        raise UsageError(f"{unknown('option', extra[0], known)}; variant {name!r} takes {_signature(known)}")
    if missing := [option for option, needed in known.items() if needed and option not in given]:
        raise UsageError(f"variant {name!r} needs {', '.join(missing)}; it takes {_signature(known)}")


def _signature(known: dict[str, bool]) -> str:
    return ", ".join(option if needed else f"{option}=..." for option, needed in known.items())
