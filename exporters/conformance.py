"""The standard's own test cases of attention, through our lowerings and as they are shipped.

A case holds a model of one node, inputs, and the outputs that the standard's reference gives. Through our lowerings means:
raised to canonical form, a form chosen per runtime as an export chooses it, lowered, run. Bare means: run as it is.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lower import lower
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.raising.pipeline import raise_attention
from edgeattn.exporters.sites import find_sites
from edgeattn.runtimes.base import LoadOptions, Runtime

Array = NDArray[Any]

OPERATORS = {"Attention": "attention", "FlexAttention": "flexattention", "RotaryEmbedding": "rotaryembedding"}
"""The operators whose cases are run, and onnx's modules that hold them."""

Status = Literal["pass", "wrong", "error", "inexpressible"]
"""`wrong`: it ran without an error and gave other numbers. `inexpressible`: it has no canonical form."""

_NARROW_RTOL = {onnx.TensorProto.BFLOAT16: 2.0**-6, onnx.TensorProto.FLOAT16: 2.0**-9}
"""Two units in the last place. onnx's own test runner allows them for bfloat16, and for float16 hardly one, which would
call a value wrong that is rounded the other way."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test of the standard. bfloat16 goes in and out as float32, which holds all of it and which numpy knows."""

    name: str
    operator: str
    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    rtol: Mapping[str, float]
    atol: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a case ended; `reason` says why where it did not pass, `lowering` which form was chosen (ours only)."""

    status: Status
    reason: str = ""
    lowering: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One case on one runtime, both ways."""

    case: str
    operator: str
    runtime: str
    ours: Verdict
    bare: Verdict


@dataclass(frozen=True, slots=True)
class Totals:
    """How many cases of one operator ended how on one runtime."""

    runtime: str
    operator: str
    cases: int
    ours: Mapping[Status, int]
    bare: Mapping[Status, int]


@cache
def cases() -> dict[str, Case]:
    """Every case of `OPERATORS` by name, without those of expanded function bodies."""
    for module in OPERATORS.values():  # onnx's loader imports the modules of all operators, which takes ten seconds more
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    from onnx.backend.test.case.node import _NodeTestCases

    single = [case for case in _NodeTestCases if len(case.model.graph.node) == 1]
    return {case.name: _case(case) for case in single if case.model.graph.node[0].op_type in OPERATORS}


def collect(names: Sequence[str], runtimes: Sequence[Runtime], folder: Path) -> Iterator[Result]:
    """Both verdicts for each case on each runtime, as they come; models and probes are written to `folder`."""
    prover = Prover(folder / "probes")
    for runtime in runtimes:
        for name in names:
            case = cases()[name]
            ours, bare = run_ours(case, runtime, prover, folder), run_bare(case, runtime, folder)
            yield Result(name, case.operator, runtime.name, ours, bare)


def totals(results: Iterable[Result]) -> list[Totals]:
    """Counts by runtime and operator, in the order in which they come."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.runtime, result.operator), []).append(result)
    return [
        Totals(*key, len(group), Counter(r.ours.status for r in group), Counter(r.bare.status for r in group))
        for key, group in groups.items()
    ]


def run_ours(case: Case, runtime: Runtime, prover: Prover, folder: Path) -> Verdict:
    """Raise, choose among what is proven, lower, run, compare."""
    model = ir.from_proto(case.model)
    try:
        raise_attention(model)
    except RaisingError as error:
        return Verdict("inexpressible", str(error))
    try:
        device = runtime.devices()[0]
        chosen = {site.name: choose(site.core({}), runtime, device, prover).lowering for site in find_sites(model)}
        lowered = lower(model, chosen, {})
    except EdgeAttnError as error:
        return Verdict("error", str(error))
    form = ", ".join(lowering.name for lowering in chosen.values()) or "standard operators"
    path = folder / f"{case.name}-{runtime.name}.onnx"
    ir.save(lowered, path)
    return _run(case, runtime, path, form)


def run_bare(case: Case, runtime: Runtime, folder: Path) -> Verdict:
    """Run the operator as the standard ships it, and compare."""
    path = folder / f"{case.name}-bare.onnx"
    onnx.save(case.model, path)
    return _run(case, runtime, path, "")


def _run(case: Case, runtime: Runtime, path: Path, form: str) -> Verdict:
    try:
        with runtime.load(path, LoadOptions(device=runtime.devices()[0], spin=False)) as session:
            got = session.run(case.feeds)
    except EdgeAttnError as error:
        return Verdict("error", str(error), form)
    try:
        for name, expected in case.outputs.items():
            np.testing.assert_equal(got[name].dtype, expected.dtype, err_msg=name)
            np.testing.assert_allclose(got[name], expected, case.rtol[name], case.atol, err_msg=name)
    except AssertionError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Verdict("wrong", " ".join(line for line in lines if not line.startswith(("ACTUAL", "DESIRED"))), form)
    return Verdict("pass", lowering=form)


def _case(test: Any) -> Case:
    ((inputs, outputs),) = test.data_sets
    graph = test.model.graph
    elements = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    return Case(
        name=test.name,
        operator=graph.node[0].op_type,
        model=_float32_borders(test.model),
        feeds=_arrays([value.name for value in graph.input], inputs),
        outputs=_arrays(list(elements), outputs),
        rtol={name: max(test.rtol, _NARROW_RTOL.get(element, 0.0)) for name, element in elements.items()},
        atol=test.atol,
    )


def _arrays(names: Sequence[str], arrays: Sequence[Any]) -> dict[str, Array]:
    return {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, array in zip(names, map(np.asarray, arrays), strict=True)
    }


def _float32_borders(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose bfloat16 inputs and outputs are cast from and to float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (node,) = copy.graph.node
    before, after = [], []
    for value in (*copy.graph.input, *copy.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type != onnx.TensorProto.BFLOAT16:
            continue
        kind.elem_type, inner = onnx.TensorProto.FLOAT, f"{value.name}_bfloat16"
        if value.name in node.input:
            before.append(onnx.helper.make_node("Cast", [value.name], [inner], to=onnx.TensorProto.BFLOAT16))
            node.input[:] = [inner if name == value.name else name for name in node.input]
        else:
            after.append(onnx.helper.make_node("Cast", [inner], [value.name], to=onnx.TensorProto.FLOAT))
            node.output[:] = [inner if name == value.name else name for name in node.output]
    kept = onnx.NodeProto()
    kept.CopyFrom(node)
    del copy.graph.node[:]
    copy.graph.node.extend([*before, kept, *after])
    return copy
