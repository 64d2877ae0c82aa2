"""A core behind a cache that the runtime keeps, as a model of one site: what proves the form on a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from edgeattn.exporters.canonical import OPSET, canonical_node
from edgeattn.exporters.graph import IR_VERSION, Builder
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.probing import SITE, probe_inputs, probe_name
from edgeattn.exporters.sites import DOMAIN
from edgeattn.exporters.stateful.model import FORM, Stateful
from edgeattn.manifest import PAST, TensorInfo, past_names, present_names
from edgeattn.openvino_ir import SUFFIX
from edgeattn.probe import run_probe
from edgeattn.runtimes.base import Runtime


def prove(cores: Iterable[Core], folder: Path, runtime: Runtime, device: str) -> str:
    """Why `runtime` does not compute one of `cores` rightly in this form; empty where it computes all of them so."""
    for core in dict.fromkeys(cores):
        result = run_probe(runtime, device, probe_file(core, folder), core.spec, cached=True)
        if not result.passed:
            return f"its probe fails here ({result.reason})"
    return ""


def probe_file(core: Core, folder: Path) -> Path:
    """The core as a model, written on first use; its numbers lie beside it. Inputs: q, what is new of k and v, what else the
    spec names, and the past."""
    path = folder / f"{probe_name(FORM, core)}{SUFFIX}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = _model(core)
        inputs, outputs = (tuple(map(_info, values)) for values in (model.graph.inputs, model.graph.outputs))
        Stateful(model, inputs, outputs, {}, path.with_suffix(".bin")).write(path)
    return path


def _model(core: Core) -> ir.Model:
    spec, b = core.spec, Builder()
    inputs = probe_inputs(core, "batch", "queries", "keys")
    named = {str(value.name): value for value in inputs}
    past, joined = [], {}
    for name, past_name, present_name in zip(("k", "v"), past_names(1), present_names(1), strict=True):
        new, size = named[name], spec.head_dim if name == "k" else spec.value_head_dim
        held, whole = (ir.Shape(["batch", spec.kv_heads, length, size]) for length in (PAST, "keys"))
        new.shape = ir.Shape(["batch", spec.kv_heads, "queries", size])
        past.append(ir.val(past_name, ir.DataType.FLOAT, held))
        joined[name] = b.op("Concat", past[-1], new, axis=2)
        joined[name].name, joined[name].shape, joined[name].dtype = present_name, whole, ir.DataType.FLOAT
    node = canonical_node(spec, [joined.get(str(value.name), value) for value in inputs], name=SITE)
    out = node.outputs[0]
    out.name, out.dtype = spec.output_names[0], ir.DataType.FLOAT
    out.shape = ir.Shape(["batch", spec.q_heads, "queries", spec.value_head_dim])
    imports = {"": OPSET, DOMAIN: 1}
    graph = ir.Graph([*inputs, *past], [out, *joined.values()], nodes=[*b.nodes, node], opset_imports=imports, name="probe")
    return ir.Model(graph, ir_version=IR_VERSION)


def _info(value: ir.Value) -> TensorInfo:
    assert value.name
    assert value.dtype is not None
    assert value.shape is not None
    dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    return TensorInfo(value.name, str(value.dtype.numpy()), dims)
