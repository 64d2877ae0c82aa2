"""A model's products with constant matrices, one row each, and nothing else: the most that decoding could reach."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeattn.bundle import open_bundle
from edgeattn.exporters.graph import Builder
from edgeattn.manifest import FP32
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions


def products_run(bundle: str, runtime: str, threads: int) -> Callable[[], object]:
    """Runs the products of the bundle's flavour for ONNX Runtime once, on any runtime. Exits where it has none."""
    opened = open_bundle(bundle)
    flavours = opened.manifest.flavours_for("onnxruntime:cpu", FP32)
    if not flavours:
        raise SystemExit(
            f"{bundle} has no flavour for onnxruntime:cpu in fp32 to take products from; export it with -r onnxruntime:cpu"
        )
    products = _products(ir.load(opened.file(flavours[0].file)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.onnx"
        ir.save(products, path, external_data="products.bin")
        session = registry.get(runtime).load(path, LoadOptions(threads=threads, spin=False))
    feeds = {info.name: np.ones((1, info.dims[1]), dtype=np.float32) for info in session.inputs}  # type: ignore[arg-type]
    return lambda: session.run(feeds)


def _products(model: ir.Model) -> ir.Model:
    """Every product with its own copy of the weights, reduced to a number so that none is left out."""
    b = Builder()
    rows: dict[int, ir.Value] = {}
    ends = []
    for node in model.graph:
        values = _weights(node)
        if values is None:
            continue
        row = rows.setdefault(values.shape[0], ir.val(f"x{values.shape[0]}", ir.DataType.FLOAT, [1, values.shape[0]]))
        product = b.op("MatMul", row, b.op("Constant", value=ir.tensor(np.ascontiguousarray(values))))
        ends.append(b.op("ReduceMax", product, keepdims=0))
    total = b.op("Sum", *ends)
    total.name, total.type, total.shape = "total", ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    graph = ir.Graph(list(rows.values()), [total], nodes=b.nodes, opset_imports={"": 18}, name="products")
    products = ir.Model(graph, ir_version=10)
    common.NameFixPass()(products)
    return products


def _weights(node: ir.Node) -> np.ndarray | None:
    """The constant matrix (I, O) that a node multiplies rows by; None for every other node."""
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    if weight is None or weight.shape is None or len(weight.shape) != 2:
        return None
    transposed = weight.producer()
    tensor = weight.const_value if transposed is None else transposed.inputs[0].const_value  # type: ignore[union-attr]
    if tensor is None:
        return None
    return tensor.numpy().T if transposed is not None else tensor.numpy()
