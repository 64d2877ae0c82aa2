"""How sensitive each layer is to a kind: its own signal over its own noise, with inputs in full precision.

The products are taken out of the model and put side by side into a file of their own, which is quantized, loaded and run. So the
error is that of the runtime's own arithmetic, on what the layer meets in the model, and none of it comes from the layers before. One
thing differs from the model: products that share an input there have scales of their own here, where a kind migrates them.
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
from edgeattn.exporters.quantize.observing import read_by
from edgeattn.exporters.quantize.writers import WRITERS, Writer
from edgeattn.loading import PORTABLE
from edgeattn.manifest import Manifest, OutputInfo, TensorInfo
from edgeattn.runtimes.base import LoadOptions

Arrays = dict[str, NDArray[Any]]

_SAMPLES, _ROWS = 32, 256
"""Of the calibration, and positions of them, that are looked at; as many are for finding scales."""
_MOST_DB = 200.0
"""Said where nothing at all is lost, and below zero where everything is."""


def sqnr(truth: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal over quantization noise in dB: 10 log10 of the mean square of `truth` over that of the error; between -200 and 200."""
    wide = truth.astype(np.float64)
    noise, signal = float(np.square(wide - got).sum()), float(np.square(wide).sum())
    if noise == 0:
        return _MOST_DB
    ratio = signal / noise if np.isfinite(noise) else 0.0
    return float(np.clip(10 * np.log10(ratio), -_MOST_DB, _MOST_DB)) if ratio else -_MOST_DB


def sensitivities(workshop: Workshop, kinds: Sequence[Kind]) -> dict[str, dict[str, float]]:
    """Kind -> weights of a product -> `sqnr` of its output, the least where several read them. Embeddings have no input to round.
    Empty where the bundle has no portable flavour, whose products are taken, or the model no products with constant weights."""
    portable = workshop.bundle.manifest.flavour(PORTABLE)
    if portable is None:
        return {}
    model = onnx_file.read(workshop.bundle.file(portable.file))
    known = onnx_file.layers(model)
    products = {node.name: node for node in model.graph.node if node.name in known and node.op_type == "MatMul"}
    if not products:
        return {}
    scales, shown = _inputs(model, products, workshop)
    with TemporaryDirectory(dir=workshop.folder) as folder:
        path = Path(folder) / "apart.onnx"
        weights = _put_apart(model, products, path)
        truth = {name: shown[f"in.{name}"] @ weights[node.input[1]] for name, node in products.items()}
        manifest = _manifest_of(workshop.bundle.manifest, shown, truth)
        writer = WRITERS[workshop.runtime.name](path, manifest, lambda: [scales], workshop.method)
        found: dict[str, dict[str, float]] = {}
        for kind in kinds:
            got = _run(workshop, writer, kind, Path(folder), shown)
            layers = found.setdefault(kind.name, {})
            for name, output in got.items():
                weight = known[name].weight
                layers[weight] = min(sqnr(truth[name], output), layers.get(weight, _MOST_DB))
    return found


def _run(workshop: Workshop, writer: Writer, kind: Kind, folder: Path, inputs: Arrays) -> Arrays:
    """What the products give in `kind` on the target, by name."""
    path = folder / f"{kind.name}{writer.suffix}"
    writer.write(dict.fromkeys(writer.layers, kind), path, f"{kind.name}.bin")
    options = LoadOptions(workshop.device, workshop.threads, spin=False, activations=kind.activations)
    with workshop.runtime.load(path, options) as session:
        return session.run(inputs)


def _inputs(model: onnx.ModelProto, products: Mapping[str, onnx.NodeProto], workshop: Workshop) -> tuple[Arrays, Arrays]:
    """What goes into each product, (N, I), while full precision reads samples: of every other one to find scales with, of those
    between to be shown. Where an input is read once for each sample, as by a classifier, there are as many rows."""
    samples, padding = workshop.calibrating()[: 2 * _SAMPLES], workshop.bundle.manifest.padding or ""
    halves: tuple[Arrays, Arrays] = {}, {}
    for place, read in enumerate(read_by(model, products.values(), samples, padding)):
        half = halves[place % 2]
        for name, rows in read.items():
            half[name] = np.concatenate([half[name], rows])[:_ROWS] if name in half else rows[:_ROWS]
        if all(half and min(map(len, half.values())) == _ROWS for half in halves):
            break
    both = (halves[0], halves[1] or halves[0])
    scales, shown = ({f"in.{name}": half[node.input[0]] for name, node in products.items()} for half in both)
    return scales, shown


def _put_apart(model: onnx.ModelProto, products: Mapping[str, onnx.NodeProto], path: Path) -> Arrays:
    """Write a model of the products alone, each with an input of its own; returns their weights by name."""
    read = {node.input[1] for node in products.values()}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    shapes = {tensor.name: list(tensor.dims) for tensor in tensors}
    nodes, inputs, outputs = [], [], []
    for name, node in products.items():
        rows, columns = shapes[node.input[1]]
        nodes.append(helper.make_node("MatMul", [f"in.{name}", node.input[1]], [name], name))
        inputs.append(helper.make_tensor_value_info(f"in.{name}", TensorProto.FLOAT, [f"rows.{name}", rows]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"rows.{name}", columns]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, tensors)
    apart = helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)
    onnx_io.write(apart, path, f"{path.stem}.bin")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _manifest_of(manifest: Manifest, inputs: Arrays, outputs: Arrays) -> Manifest:
    """As if the products were a model."""
    takes = tuple(TensorInfo(f"in.{name}", "float32", (f"rows.{name}", inputs[f"in.{name}"].shape[1])) for name in outputs)
    gives = tuple(OutputInfo(name, "float32", (f"rows.{name}", array.shape[1])) for name, array in outputs.items())
    return replace(manifest, inputs=takes, outputs=gives, padding=None)
