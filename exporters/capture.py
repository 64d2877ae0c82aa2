"""torch.export -> a canonical ONNX model: every attention core one node, dynamic sizes kept as named symbols."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from edgeattn.errors import CaptureError
from edgeattn.exporters import canonical, translation
from edgeattn.exporters.custom.registry import attach_bodies
from edgeattn.exporters.deferred import conditions_hold, is_unproven
from edgeattn.exporters.explaining import explain_conversion, explain_trace
from edgeattn.exporters.flex.program import raise_flex_attention
from edgeattn.exporters.passes.dimensions import rename_dimensions
from edgeattn.exporters.passes.outputs import separate_outputs
from edgeattn.exporters.passes.pipeline import clean
from edgeattn.exporters.raising.pipeline import raise_written
from edgeattn.exporters.raising.specify import specify_masks
from edgeattn.exporters.sites import DOMAIN, MODULE_KEY
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.tracing import traceable

_WRAPPED = "module"
"""Attribute of `_Flat` that holds the user's module."""
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


class _Flat(torch.nn.Module):
    """The user's module with positional inputs and a tuple of named outputs, which is what a graph has."""

    def __init__(self, module: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = (tuple(inputs), tuple(outputs))

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names, outputs = self.names
        result = named_outputs(self.module(**dict(zip(names, args, strict=True))))
        return tuple(result[name] for name in outputs)


def named_outputs(result: Any) -> dict[str, torch.Tensor]:
    """A module's result by name: a mapping as it is, a tensor as `output`, a tuple as `output_0`, `output_1`, ...

    Raises:
        CaptureError: anything else came back.
    """
    if isinstance(result, torch.Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        named = {str(name): value for name, value in result.items() if value is not None}
    elif isinstance(result, tuple | list):
        named = {f"output_{i}": value for i, value in enumerate(result)}
    else:
        named = {}
    if not named or not all(isinstance(value, torch.Tensor) for value in named.values()):
        kinds = ", ".join(f"{name}: {type(value).__name__}" for name, value in named.items()) or type(result).__name__
        raise CaptureError(f"the model must return a tensor, or a tuple or dict of tensors; got {kinds}")
    return named


def capture(source: Source, outputs: Sequence[str]) -> ir.Model:
    """The canonical model of `source`, cleaned up, with a body for every distinct spec.

    Raises:
        CaptureError: torch.export cannot trace the model (data-dependent control flow, a dynamic size that the model
            fixes); the message holds the line of the model that torch names.
    """
    _check_names(source, outputs)
    if source.graph is not None:
        return source.graph(outputs)
    module = _Flat(source.module, list(source.inputs), outputs).eval()
    example = source.sample(source.capture_sizes(), torch.Generator().manual_seed(0))
    with source.exporting(), _quiet(), traceable():
        program = source.program or _trace(module, source, example)
        raise_flex_attention(program)
        model = _convert(program, list(source.inputs), list(outputs))
    _check_flat(model)
    separate_outputs(model, outputs)
    _name_modules(model, "" if source.program else _WRAPPED)
    rename_dimensions(model, source.dynamic)
    raise_written(model)
    specify_masks(model)
    canonical.canonicalize(model)
    attach_bodies(model)
    clean(model)
    _check_dynamic(model, source)
    return model


def _trace(module: torch.nn.Module, source: Source, example: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    symbols = {name: torch.export.Dim(name, min=dim.least, max=dim.limit) for name, dim in source.dimensions.items()}
    free = torch.export.Dim.DYNAMIC  # of a dimension that follows from others
    shapes = tuple(
        {axis: symbols.get(s, free) for axis, s in source.dynamic.get(name, {}).items()} or None for name in source.inputs
    )

    def export(defer: bool) -> torch.export.ExportedProgram:
        return torch.export.export(
            module,
            tuple(example.values()),
            dynamic_shapes={"args": shapes},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=defer,
        )

    with torch.no_grad():
        try:
            return export(defer=False)
        except CaptureError:
            raise
        except Exception as error:
            if is_unproven(error):
                with contextlib.suppress(Exception):  # the first error says what is wrong
                    program = export(defer=True)
                    if conditions_hold(program):
                        return program
            raise CaptureError(explain_trace(error)) from error


def _convert(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]) -> ir.Model:
    try:
        with torch.no_grad():  # as it was traced; torch's scan is converted only so
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=canonical.OPSET,
                input_names=inputs,
                output_names=outputs,
                custom_translation_table=translation.table(),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise CaptureError(explain_conversion(error)) from error
    assert converted is not None
    return converted.model


def _check_names(source: Source, outputs: Sequence[str]) -> None:
    """A graph has one name for one value, so an output cannot be called like an input."""
    both = [name for name in outputs if name in source.inputs]
    if both:
        raise CaptureError(
            f"{', '.join(map(repr, both))} is the name of an input and of an output; give the output another name"
        )


def _check_flat(model: ir.Model) -> None:
    """Attention inside a branch or a loop would be invisible to every later stage."""
    top = set(model.graph)
    hidden = [node for node in model.graph.all_nodes() if node.domain == DOMAIN and node not in top]
    if hidden:
        raise CaptureError(
            f"{len(hidden)} attention(s) stand inside a branch or loop (torch.cond, while_loop, scan); "
            "fix: attend outside of it, and choose between results with torch.where"
        )


def _name_modules(model: ir.Model, root: str) -> None:
    """Keep each node's module path, as the user's own module has it under `root`; drop stack traces, which hold paths of
    this machine."""
    prefix = f"{root}." if root else ""
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
        node.metadata_props.clear()
        node.doc_string = None
        if len(scopes) > 1:
            path = str(scopes[-2])
            node.metadata_props[MODULE_KEY] = "" if path == root else path.removeprefix(prefix)
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for value in list(model.graph.initializers.values()):
        if value.name:
            value.name = value.name.removeprefix(prefix)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _check_dynamic(model: ir.Model, source: Source) -> None:
    for value in model.graph.inputs:
        declared = source.dynamic.get(value.name or "", {})
        for axis, symbol in declared.items():
            size = value.shape[axis] if value.shape is not None else None
            if isinstance(size, int):
                raise CaptureError(
                    f"input {value.name!r}: axis {axis} was declared dynamic ({symbol}) but the graph fixes it to {size}; "
                    "the model uses the example's size as a constant"
                )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress prints and advice off the user's screen; errors still raise."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnx_ir"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
