"""An ONNX file of somebody else's, opened with care: nothing of it is used before it was checked."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeattn.errors import SourceError
from edgeattn.exporters.raising.contrib import CACHE
from edgeattn.exporters.raising.pipeline import CONTRIB, is_known

NEWEST = 25
"""The newest ai.onnx opset that is understood; later ones are not released."""
_OLDEST = 7
_CACHE = re.compile(r"(^|[._/])(past|present|cache)", re.IGNORECASE)
_CACHED_AXES = 4


def open_onnx(path: Path) -> ir.Model:
    """The model of a file, its weights still on disk.

    Raises:
        SourceError: no such file, no ONNX, a file that the standard's checker refuses, weights outside the file's folder or
            not there, operators or opsets that are not known, or a decoder with its cache.
    """
    if not path.is_file():
        raise SourceError(f"no file {path}; give the path of a .onnx file")
    model = _read(path)
    _check_external(model, path)
    _check_opset(model, path)
    _check_operators(model, path)
    _check_cache(model, path)
    try:
        onnx.checker.check_model(os.fspath(path))
    except Exception as error:  # protobuf, checker and OS errors share no base
        if not _only_foreign(model):
            raise SourceError(f"{path} is no valid ONNX model: {str(error).strip():.400}") from error
    return model


def _read(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf has no error of its own for a file that is something else
        raise SourceError(f"{path} is not an ONNX file: {str(error).strip() or type(error).__name__:.200}") from error
    if not model.graph.opset_imports or not model.graph.outputs:
        raise SourceError(f"{path} is not an ONNX file: it names no operator set or no output")
    return model


def _check_external(model: ir.Model, path: Path) -> None:
    """Weights beside the file lie in its own folder, and are all there."""
    folder = path.resolve().parent
    for name, tensor in _tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(os.fspath(tensor.location))
        place = (folder / location).resolve()
        if location.is_absolute() or not place.is_relative_to(folder):
            raise SourceError(
                f"{path}: the weights of {name!r} lie at {location}, outside the file's folder; put them beside the file, "
                "and save it with a plain file name as their location"
            )
        if not place.is_file():
            raise SourceError(f"{path}: the weights of {name!r} lie in {location}, which is not there; copy it beside the file")
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if end > place.stat().st_size:
            raise SourceError(
                f"{path}: the weights of {name!r} end at byte {end} of {location}, which has {place.stat().st_size}; "
                "copy it again"
            )


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.name or "", value.const_value
    bodies = [model.graph, *(function.graph for function in model.functions.values())]
    for body in bodies:
        for node in ir.traversal.RecursiveGraphIterator(body):
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR:
                    yield node.name or node.op_type, attribute.value


def _only_foreign(model: ir.Model) -> bool:
    """Whether the file holds operators that the standard's checker cannot know, and may refuse for that alone.

    ONNX Runtime's optimizer writes operators of its own into the standard's domain.
    """
    return any(node.op_type == "SimplifiedLayerNormalization" and node.domain == "" for node in model.graph.all_nodes())


def _check_opset(model: ir.Model, path: Path) -> None:
    opset = model.graph.opset_imports.get("", 0)
    if not _OLDEST <= opset <= NEWEST:
        raise SourceError(
            f"{path} is written in opset {opset}; understood are {_OLDEST} to {NEWEST}: "
            "export it again with one of these, such as 18"
        )


def _check_operators(model: ir.Model, path: Path) -> None:
    own = {(function.domain, function.name) for function in model.functions.values()}
    foreign = Counter(
        f"{node.domain or 'ai.onnx'}::{node.op_type}"
        for node in model.graph.all_nodes()
        if (node.domain, node.op_type) not in own and not is_known(node)
    )
    if not foreign:
        return
    named = ", ".join(f"{name} ({count} time{'s' * (count > 1)})" for name, count in sorted(foreign.items()))
    ours = f"; of {CONTRIB}, what ONNX Runtime's optimizer writes around attention is understood"
    raise SourceError(
        f"{path} has operators that cannot be written in the standard's: {named}{ours if CONTRIB in named else ''}. "
        "Give the file as it was before it was optimized or quantized for one runtime"
    )


def _check_cache(model: ir.Model, path: Path) -> None:
    cached = [
        value.name or ""
        for value in model.graph.inputs
        if _CACHE.search(value.name or "") and (value.shape is None or len(value.shape) >= _CACHED_AXES)
    ]
    if cached:
        more = f" and {len(cached) - 3} more" if len(cached) > 3 else ""
        raise SourceError(f"{path} has a key/value cache among its inputs ({', '.join(cached[:3])}{more}); {CACHE}")
