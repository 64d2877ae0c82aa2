"""Where a runtime goes wrong: the first value inside a model that differs from a trusted run of the same model.

All forms of a model keep the names of the values outside attention and at its border, so that two of them can be read side by
side: the suspect on its runtime, the other one on a runtime that passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.reference_run import Arrays
from edgeattn.exporters.sites import SPEC_KEY, module_path
from edgeattn.parity import Array, compare_arrays
from edgeattn.runtimes.base import LoadOptions, Runtime
from edgeattn.tolerance import default_class

_COMPARED = {ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


@dataclass(frozen=True, slots=True)
class Run:
    """A form of the model and where it is run."""

    path: Path
    runtime: Runtime
    device: str
    cache: str = ""


def first_difference(suspect: Run, trusted: Run, inputs: Arrays) -> str:
    """The first node, in graph order, whose value differs while all that it is computed from agrees; in words.

    Reading values out keeps a runtime from fusing across them, so a fault of its optimizer may vanish: then that is said.
    A form that cannot be run with its values read out gives its error as the answer.
    """
    graphs = ir.load(suspect.path), ir.load(trusted.path)
    names = _shared(*graphs)
    try:
        got, expected = (_values(run, model, names, inputs) for run, model in zip((suspect, trusted), graphs, strict=True))
    except EdgeAttnError as error:
        return f"it could not be located: {error}"
    wrong = {name: reason for name in names if (reason := _difference(name, got[name], expected[name]))}
    for node in graphs[0].graph:
        if any(value.name in wrong for value in node.outputs) and not any(v and v.name in wrong for v in node.inputs):
            name = next(value.name for value in node.outputs if value.name in wrong)
            assert name is not None
            place = f" of {module_path(node)}" if module_path(node) else ""
            return f"first at {name}, from node {node.name} ({node.op_type}){place}: {wrong[name]}"
    return (
        "no value inside differs once it is read out, so an optimization across nodes is at fault"
        if names
        else "its values have no names in common with a form that passed"
    )


def _shared(suspect: ir.Model, trusted: ir.Model) -> list[str]:
    """Values that both compute, in the suspect's order."""
    known = {value.name: value for value in _outside(trusted)}
    return [
        value.name for value in _outside(suspect) if value.name in known and value.name and _alike(value, known[value.name])
    ]


def _outside(model: ir.Model) -> Iterator[ir.Value]:
    """The values outside of attention and at its border: what a form computes inside is named as it comes."""
    for node in model.graph:
        for value in node.outputs:
            uses = [use.node for use in value.uses()]
            if SPEC_KEY not in node.metadata_props or any(SPEC_KEY not in user.metadata_props for user in uses):
                yield value


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """Whether both have a type that can be compared, and the same operator gives them, or both are an attention's."""
    if not {one.dtype, other.dtype} <= _COMPARED:
        return False
    producers = one.producer(), other.producer()
    kinds = ["attention" if p is None or SPEC_KEY in p.metadata_props else p.op_type for p in producers]
    return kinds[0] == kinds[1]


def _values(run: Run, model: ir.Model, names: list[str], inputs: Arrays) -> Arrays:
    with (
        _exposed(run.path, model, names) as path,
        run.runtime.load(path, LoadOptions(device=run.device, cache=run.cache)) as session,
    ):
        return session.run(inputs)


@contextmanager
def _exposed(path: Path, model: ir.Model, names: list[str]) -> Iterator[Path]:
    """The model with these values as further outputs, beside its weights for as long as it is needed."""
    outputs = {value.name for value in model.graph.outputs}
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(by_name[name] for name in names if name not in outputs)
    exposed = path.with_name(f"exposed-{path.name}")
    try:
        ir.save(model, exposed)
        yield exposed
    finally:
        exposed.unlink(missing_ok=True)


def _difference(name: str, got: Array, expected: Array) -> str:
    if got.shape != expected.shape:  # two values that happen to have one name
        return ""
    return compare_arrays(name, got, expected, default_class(str(expected.dtype))).reason
