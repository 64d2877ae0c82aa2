"""Operators that an ONNX file defines itself, as functions, and those of foreign domains that it uses. Without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgeattn.errors import BundleError
from edgeattn.wire import as_bytes, fields, map_file, text_at

# field numbers of onnx.proto
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _FUNCTION_NODE = 1, 7
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPHS = (6, 11)


class Operator(NamedTuple):
    """An operator by domain and type; prints as `mylib::GatedRMSNorm`."""

    domain: str
    type: str

    def __str__(self) -> str:
        return f"{self.domain}::{self.type}"


def defined_operators(path: Path) -> list[Operator]:
    """The functions of the file, in order. Raises BundleError for a file that is no ONNX model."""
    try:
        return [_function(message) for message in _all(map_file(path), _MODEL_FUNCTION)]
    except (ValueError, IndexError, TypeError) as error:
        raise _broken(path, error) from error


def undefined_operators(path: Path, domains: frozenset[str]) -> list[Operator]:
    """Operators of `domains` that the file uses, in branches, loops and functions too, and does not define, sorted.

    Raises:
        BundleError: the file is no ONNX model.
    """
    try:
        model = map_file(path)
        functions = list(_all(model, _MODEL_FUNCTION))
        used = {node for graph in _all(model, _MODEL_GRAPH) for node in _operators(graph, _GRAPH_NODE)}
        used.update(node for function in functions for node in _operators(function, _FUNCTION_NODE))
        defined = {_function(message) for message in functions}
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise _broken(path, error) from error
    return sorted(node for node in used - defined if node.domain in domains)


def _function(message: memoryview) -> Operator:
    return Operator(text_at(message, _FUNCTION_DOMAIN), text_at(message, _FUNCTION_NAME))


def _operators(graph: memoryview, field: int) -> Iterator[Operator]:
    for node in _all(graph, field):
        yield Operator(text_at(node, _NODE_DOMAIN), text_at(node, _NODE_TYPE))
        for attribute in _all(node, _NODE_ATTRIBUTE):
            for number in _ATTRIBUTE_GRAPHS:
                for inner in _all(attribute, number):
                    yield from _operators(inner, _GRAPH_NODE)


def _all(message: memoryview, number: int) -> Iterator[memoryview]:
    """Every value of a repeated field."""
    return (as_bytes(value) for given, value in fields(message) if given == number)


def _broken(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path.name} is not a complete ONNX model ({type(error).__name__}: {error}); export it again")
