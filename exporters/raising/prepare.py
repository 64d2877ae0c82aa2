"""A foreign model made ready to be read: one opset, constants where they are seen, shapes named."""

from __future__ import annotations

import ast
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer, version_converter

from edgeattn.exporters.canonical import OPSET
from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.raising.observe import observe_shapes
from edgeattn.exporters.sites import MODULE_KEY

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def prepare(
    model: ir.Model,
    draw: Callable[[Mapping[str, int]], Mapping[str, NDArray[np.generic]]],
    grid: Sequence[Mapping[str, int]],
) -> None:
    """Inline functions, convert to opset 18 or later, fold what is constant, and find every shape, in place.

    `draw` makes inputs of the sizes of `grid`, for shapes that only a run shows.

    Raises:
        RaisingError: the standard's converter cannot write the model in opset 18.
    """
    common.InlinePass()(model)
    if model.graph.opset_imports[""] < OPSET:
        _convert(model)
    name_modules(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.NameFixPass()(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    observe_shapes(model, draw, grid)
    with _quiet("onnxscript", "onnx_ir"):
        optimizer.fold_constants(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)


def _convert(model: ir.Model) -> None:
    before = model.graph.opset_imports[""]
    with _quiet("onnxscript"):
        version_converter.convert_version(model, OPSET, fallback=True)
    if model.graph.opset_imports[""] != OPSET:
        raise RaisingError(
            f"the model is written in opset {before}, and onnx.version_converter cannot write it in opset {OPSET}; "
            f"export it again with opset {OPSET}"
        )


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep a library's warnings about what it leaves to another part of it off the terminal."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def name_modules(model: ir.Model) -> None:
    """Keep the PyTorch module each node came from, where its exporter said it, and nothing else that may hold paths."""
    for node in model.graph.all_nodes():
        module = _module(node)
        node.metadata_props.clear()
        node.doc_string = None
        if module:
            node.metadata_props[MODULE_KEY] = module
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None


def _module(node: ir.Node) -> str:
    """From torch.export's list of scopes, or from a name such as `/encoder/layer.0/attention/Softmax` of older exporters."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
    except (ValueError, SyntaxError):
        scopes = []
    if len(scopes) > 1:
        return str(scopes[-2])
    path = re.fullmatch(r"/(.+)/[^/]+", node.name or "")
    return path[1].replace("/", ".") if path else ""
