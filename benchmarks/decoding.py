"""A language model with its cache: time of a prompt, tokens per second behind it, and what its plain products alone would allow.

python benchmarks/decoding.py out/smollm2 --past 128 --past 1024
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeattn.bundle import open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.exporters.graph import Builder
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Session


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-r", "--runtime", action="append", help="default: onnxruntime and openvino")
    parser.add_argument("--past", type=int, action="append", help="tokens before those that are timed; default 128 and 1024")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.runtime or ("onnxruntime", "openvino"):
        measure(name, arguments)
    _products(arguments.bundle)


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Print the time of a prompt, and tokens per second behind each length."""
    rng = np.random.default_rng(0)
    with load_decoder(arguments.bundle, name) as session:
        count = session.vocabulary or 2
        prompt = rng.integers(count, size=(1, arguments.prompt))

        def read() -> None:
            session.reset()
            session.prefill(prompt)

        seconds = [_timed(read) for _ in range(arguments.repeats + 1)][1:]
        print(f"{name}: prompt of {arguments.prompt}: {1e3 * float(np.median(seconds)):.0f} ms")
        for past in arguments.past or (128, 1024):
            session.reset()
            session.prefill(rng.integers(count, size=(1, past)))
            steps = [_timed(lambda: session.decode([1])) for _ in range(arguments.tokens)]
            print(f"{name}: behind {past}: {1 / float(np.median(steps)):.1f} tokens/s")


def _products(bundle: str) -> None:
    """The model's products with constant matrices, one row each, and nothing else: the most that decoding could reach."""
    opened = open_bundle(bundle)
    flavour = opened.manifest.flavour("onnxruntime:cpu")
    if flavour is None:
        return
    model = ir.load(opened.file(flavour.file))
    with _products_session(model) as session:
        feeds = {info.name: np.ones((1, info.dims[1]), dtype=np.float32) for info in session.inputs}
        seconds = [_timed(lambda: session.run(feeds)) for _ in range(30)][5:]
    print(f"onnxruntime: the model's products with weights alone: {1 / float(np.median(seconds)):.1f} tokens/s")


def _products_session(model: ir.Model) -> Session:
    b = Builder()
    rows: dict[int, ir.Value] = {}
    ends = []
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or weight.shape is None or len(weight.shape) != 2:
            continue
        transposed = weight.producer()
        tensor = weight.const_value if transposed is None else transposed.inputs[0].const_value  # type: ignore[union-attr]
        if tensor is None:
            continue
        values = tensor.numpy().T if transposed is not None else tensor.numpy()
        row = rows.setdefault(values.shape[0], ir.val(f"x{values.shape[0]}", ir.DataType.FLOAT, [1, values.shape[0]]))
        product = b.op("MatMul", row, b.op("Constant", value=ir.tensor(np.ascontiguousarray(values))))
        ends.append(b.op("ReduceMax", product, keepdims=0))
    total = b.op("Sum", *ends)
    total.name, total.type, total.shape = "total", ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    graph = ir.Graph(list(rows.values()), [total], nodes=b.nodes, opset_imports={"": 18}, name="products")
    products = ir.Model(graph, ir_version=10)
    common.NameFixPass()(products)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.onnx"
        ir.save(products, path, external_data="products.bin")
        return registry.get("onnxruntime").load(path, LoadOptions())


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
