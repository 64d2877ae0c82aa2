"""How sensitive each layer is to a kind: its own signal over its own noise, with inputs in full precision.

The products are taken out of the model and put side by side into a file of their own, which is quantized, loaded and run as the
model itself would be. So the error is that of the runtime's own arithmetic, on what the layer meets in the model, and none of it comes
from the layers before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeattn.exporters.quantize import onnx_file, onnx_io
from edgeattn.exporters.quantize.candidate import Workshop
from edgeattn.exporters.quantize.kinds import Kind
from edgeattn.exporters.quantize.observing import observed
from edgeattn.exporters.quantize.writers import WRITERS
from edgeattn.loading import PORTABLE
from edgeattn.manifest import Manifest, OutputInfo, TensorInfo
from edgeattn.runtimes.base import LoadOptions

Arrays = dict[str, NDArray[Any]]

_ROWS = 256
"""Positions that are looked at."""
_EXACT_DB = 200.0
"""Said where nothing at all is lost."""


def sqnr(truth: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal over quantization noise in dB: 10 log10 of the mean square of `truth` over that of the error."""
    wide = truth.astype(np.float64)
    noise, signal = float(np.square(wide - got).sum()), float(np.square(wide).sum())
    return 10 * float(np.log10(signal / noise)) if noise and signal else _EXACT_DB


def sensitivities(workshop: Workshop, kinds: Sequence[Kind]) -> dict[str, dict[str, float]]:
    """Kind -> weights of a product -> `sqnr` of its output, while the first samples of the calibration are read. Embeddings have
    no input to round. Empty where the bundle has no portable flavour, whose products are taken."""
    portable = workshop.bundle.manifest.flavour(PORTABLE)
    if portable is None:
        return {}
    model = onnx_file.read(workshop.bundle.file(portable.file))
    known = onnx_file.layers(model)
    products = {node.name: node for node in model.graph.node if node.name in known and node.op_type == "MatMul"}
    if not products:
        return {}
    inputs = _inputs(model, list(products.values()), workshop)
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory(dir=workshop.folder) as folder:
        path = Path(folder) / "apart.onnx"
        weights = _put_apart(model, products, path)
        named = {f"in.{name}": inputs[node.input[0]] for name, node in products.items()}
        truth = {name: named[f"in.{name}"] @ weights[node.input[1]] for name, node in products.items()}
        manifest = _manifest_of(workshop.bundle.manifest, named, truth)
        writer = WRITERS[workshop.runtime.name](path, manifest, lambda: [named], workshop.method)
        for kind in kinds:
            small = Path(folder) / f"{kind.name}{writer.suffix}"
            chosen = dict.fromkeys(writer.layers, kind)
            writer.write(chosen, small, f"{kind.name}.bin")
            options = LoadOptions(workshop.device, workshop.threads, spin=False, activations=kind.activations)
            with workshop.runtime.load(small, options) as session:
                got = session.run(named)
            found[kind.name] = {known[name].weight: sqnr(truth[name], got[name]) for name in products}
    return found


def _inputs(model: onnx.ModelProto, products: Sequence[onnx.NodeProto], workshop: Workshop) -> Arrays:
    """What goes into products, (N, I), while full precision reads some samples."""
    asked = sorted({node.input[0] for node in products})
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in asked}
    for arrays in observed(model, asked, workshop.calibrating()):
        for name, array in arrays.items():
            found[name].append(array.reshape(-1, array.shape[-1]))
        if min(sum(map(len, parts)) for parts in found.values()) >= _ROWS:
            break
    return {name: np.concatenate(parts)[:_ROWS] for name, parts in found.items()}


def _put_apart(model: onnx.ModelProto, products: Mapping[str, onnx.NodeProto], path: Path) -> Arrays:
    """Write a model of the products alone, each with an input of its own; returns their weights by name."""
    read = {node.input[1] for node in products.values()}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    shapes = {tensor.name: list(tensor.dims) for tensor in tensors}
    nodes, inputs, outputs = [], [], []
    for name, node in products.items():
        rows, columns = shapes[node.input[1]]
        nodes.append(helper.make_node("MatMul", [f"in.{name}", node.input[1]], [name], name))
        inputs.append(helper.make_tensor_value_info(f"in.{name}", TensorProto.FLOAT, ["rows", rows]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", columns]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, tensors)
    apart = helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)
    onnx_io.write(apart, path, f"{path.stem}.bin")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _manifest_of(manifest: Manifest, inputs: Arrays, outputs: Arrays) -> Manifest:
    """As if the products were a model."""
    return replace(
        manifest,
        inputs=tuple(TensorInfo(name, "float32", ("rows", array.shape[1])) for name, array in inputs.items()),
        outputs=tuple(OutputInfo(name, "float32", ("rows", array.shape[1])) for name, array in outputs.items()),
        padding=None,
    )
