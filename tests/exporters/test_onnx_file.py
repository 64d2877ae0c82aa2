"""Files that others exported: every attention in them becomes a site, and the result is what the file itself says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.reference_run import run_reference
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.onnx_file import from_onnx
from edgeattn.exporters.sources.resolve import resolve
from tests.exporters.foreign import optimized, save, tiny

slow = pytest.mark.slow
PADDED = "3 heads x 8, key_padding mask"
CAUSAL = "3 heads x 8, causal, key_padding mask"
GROUPED = "4q/2kv heads x 8, causal, key_padding mask"

FORMS = [
    pytest.param("bert", "sdpa", 18, PADDED),
    pytest.param("bert", "eager", "torchscript", PADDED),
    pytest.param("bert", "sdpa", 23, PADDED, marks=slow),
    pytest.param("bert", "eager", 18, PADDED, marks=slow),
    pytest.param("bert", "sdpa", "torchscript", PADDED, marks=slow),
    pytest.param("gpt2", "eager", 18, CAUSAL, marks=slow),
    pytest.param("gpt2", "sdpa", 23, CAUSAL, marks=slow),
    pytest.param("gpt2", "eager", "torchscript", CAUSAL, marks=slow),
    pytest.param("llama", "sdpa", 18, GROUPED, marks=slow),
    pytest.param("llama", "sdpa", 23, GROUPED, marks=slow),
    pytest.param("llama", "eager", "torchscript", GROUPED, marks=slow),
]


def check(
    source: Source, model: ir.Model, run: Callable[..., dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]
) -> None:
    """The raised model is the file at sizes beyond the example, with padding."""
    for batch, sequence in ((1, 1), (3, 7), (2, 33)):
        feeds = source.sample({"batch": batch, "sequence": sequence}, torch.Generator().manual_seed(batch))
        expected = {name: value.numpy() for name, value in source.module(**feeds).items()}
        real = feeds["attention_mask"].bool().numpy()
        for name, array in run(model, feeds).items():
            np.testing.assert_allclose(
                array[real], expected[name][real], rtol=0, atol=2e-5, err_msg=f"{name} at {batch}, {sequence}"
            )


@pytest.mark.parametrize(("family", "attention", "exporter", "summary"), FORMS)
def test_each_form_is_raised_to_the_same_sites(
    family: str, attention: str, exporter: int | str, summary: str, tmp_path: Path, ort: Callable[..., object]
) -> None:
    module = tiny(family, attention)
    source = resolve(str(save(module, tmp_path / "model.onnx", exporter)))
    assert source.graph is not None
    model = source.graph(["hidden"])
    assert [site.spec.summary() for site in find_sites(model)] == [summary] * 2
    assert all(site.core({}).square for site in find_sites(model))
    assert unraised(model) == []
    layers = [str(layer) for site in find_sites(model) for layer in range(2) if f".{layer}." in site.module]
    assert layers == ["0", "1"]  # each is named after the module that it came from
    if exporter == 18:
        large = [
            v.const_value
            for v in model.graph.initializers.values()
            if v.const_value is not None and v.const_value.nbytes > 2048
        ]
        assert large
        assert all(isinstance(tensor, ir.ExternalTensor) for tensor in large)  # weights stay on disk until they are written
    check(source, ir.external_data.load_to_model(model), ort)  # type: ignore[arg-type]
    feeds = source.sample({"batch": 3, "sequence": 12}, torch.Generator().manual_seed(0))
    with torch.no_grad():  # and the file is the model that was exported, whose padding counts
        expected = module(**feeds).numpy()
        open_ = module(feeds["input_ids"], torch.ones_like(feeds["attention_mask"])).numpy()
    real = feeds["attention_mask"].bool().numpy()
    got = source.module(**feeds)["hidden"].numpy()
    np.testing.assert_allclose(got[real], expected[real], rtol=0, atol=2e-5)
    if family == "bert":
        assert np.abs(open_ - expected)[real].max() > 100 * 2e-5


def test_what_the_optimizer_fused_is_raised_and_exported(tmp_path: Path) -> None:
    """The whole way, from a file with operators of com.microsoft to a bundle of standard ones, proven on both runtimes."""
    plain = save(tiny("bert", "eager"), tmp_path / "plain.onnx", "torchscript")
    fused = optimized(plain, tmp_path / "fused.onnx")
    kinds = {node.op_type for node in onnx.load(fused).graph.node if node.domain == "com.microsoft"}
    assert {"Attention", "SkipLayerNormalization", "BiasGelu"} <= kinds
    report = edgeattn.export(str(fused), output=tmp_path / "out", runtimes=["onnxruntime:cpu", "openvino:cpu"])
    assert report.passed
    assert [site.spec.summary() for site in report.sites] == [PADDED] * 2
    assert report.unraised == ()
    manifest = open_bundle(tmp_path / "out").manifest
    assert manifest.source["kind"] == "onnx"
    assert manifest.provenance["file"] == "fused.onnx"
    assert manifest.provenance["reference"].startswith("onnxruntime ")
    assert manifest.limits == {"sequence": 64}
    portable = manifest.flavour("portable")
    assert portable is not None
    assert portable.domains == {"": 18}
    assert edgeattn.check(tmp_path / "out").passed


def test_a_shared_layer_is_stored_once(tmp_path: Path) -> None:
    """ALBERT: every layer has the same weights, and the bundle is no larger than the file."""
    path = save(tiny("albert", "eager"), tmp_path / "albert.onnx")
    source = from_onnx(path)
    assert source.graph is not None
    model = source.graph(["hidden"])
    assert len(find_sites(model)) == 2
    before = ir.load(path)
    weights = [
        sum(v.const_value.nbytes for v in m.graph.initializers.values() if v.const_value is not None) for m in (before, model)
    ]
    assert weights[1] <= weights[0] + 1024
    products = [node.inputs[1] for node in model.graph if node.op_type == "MatMul" and node.inputs[1] is not None]
    stored = [value for value in products if value.is_initializer()]
    assert len(stored) == 2 * len(set(stored)) - 1  # the projection of the embeddings is used once


def text(path: Path, body: str, **constants: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Path:
    """A file from ONNX text."""
    proto = onnx.parser.parse_model(body)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(proto, path)
    return path


PLAIN = """
<ir_version: 10, opset_import: ["" : OPSET]>
g (float[SHAPE] q, float[SHAPE] k, float[SHAPE] v) => (float[SHAPE] y) <float s = {0.25}> {
    t = Transpose <perm = [0, 1, 3, 2]> (k)
    p = MatMul (q, t)
    c = Mul (p, s)
    w = Softmax <axis = -1> (c)
    y = MatMul (w, v)
}
"""


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 25])
@pytest.mark.parametrize("shape", ["2, 4, 6, 8", "b, 4, s, 8"])
def test_fixed_and_dynamic_files_of_any_opset(opset: int, shape: str, tmp_path: Path) -> None:
    path = text(tmp_path / "plain.onnx", PLAIN.replace("OPSET", str(opset)).replace("SHAPE", shape))
    source = from_onnx(path)
    assert {name: d.batch for name, d in source.dimensions.items()} == ({} if shape[0] == "2" else {"b": True, "s": False})
    cases = run_reference(source)
    assert source.graph is not None
    model = source.graph(["y"])
    (site,) = find_sites(model)
    assert site.spec.summary() == "4 heads x 8, scale 0.25"
    assert model.graph.opset_imports[""] == 18
    assert len(cases) == (3 if shape[0] == "2" else 15)


def test_token_ids_stay_inside_the_table_that_they_index(tmp_path: Path) -> None:
    body = """
        <ir_version: 10, opset_import: ["" : 18]>
        g (int64[batch, sequence] ids, int32[batch, sequence] kinds, bool[batch, sequence] mask, float[batch, 3] x) => (float[batch, sequence, 4] y, float[batch, 3] z) {
            w = Gather (words, ids)
            wide = Cast <to = 7> (kinds)
            flat = Unsqueeze (wide, two)
            k = Gather (rows, flat)
            k2 = Squeeze (k, two)
            a = Add (w, k2)
            keep = Cast <to = 1> (mask)
            keep3 = Unsqueeze (keep, two)
            y = Mul (a, keep3)
            z = Identity (x)
        }
    """
    tables = {"words": np.ones((37, 4), dtype=np.float32), "rows": np.ones((5, 4), dtype=np.float32), "two": np.array([2])}
    source = from_onnx(text(tmp_path / "ids.onnx", body, **tables))
    drawn = source.sample({"batch": 8, "sequence": 64}, torch.Generator().manual_seed(0))
    assert set(drawn["ids"].flatten().tolist()) == set(range(37))
    assert set(drawn["kinds"].flatten().tolist()) == set(range(5))
    assert drawn["kinds"].dtype == torch.int32
    assert bool(drawn["mask"].all())
    assert drawn["x"].std() > 0.5


def test_narrow_floats_come_back_as_they_went_in(tmp_path: Path, ort: Callable[..., object]) -> None:
    """A file in half precision: its attention is proven in single precision, and its outputs keep their type."""
    body = PLAIN.replace("OPSET", "18").replace("SHAPE", "b, 4, s, 8").replace("float[", "float16[")
    body = body.replace(" <float s = {0.25}> {", " <float sf = {0.25}> { s = Cast <to = 10> (sf)")
    source = from_onnx(text(tmp_path / "half.onnx", body))
    assert source.graph is not None
    model = source.graph(["y"])
    assert [site.spec.summary() for site in find_sites(model)] == ["4 heads x 8, scale 0.25"]
    feeds = source.sample({"b": 3, "s": 9}, torch.Generator().manual_seed(0))
    got, expected = ort(model, feeds)["y"], source.module(**feeds)["y"].numpy()  # type: ignore[index]
    assert got.dtype == expected.dtype == np.float16
    np.testing.assert_allclose(got, expected, rtol=2**-9, atol=2**-10)


def test_the_longest_sequence_is_found_by_trying(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = """
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[batch, sequence, 4] x) => (float[batch, sequence, 4] y) {
            n = Shape <start = 1, end = 2> (x)
            e = Slice (table, zero, n, zero)
            y = Add (x, e)
        }
    """
    tables = {"table": np.ones((37, 4), dtype=np.float32), "zero": np.array([0])}
    dimension = from_onnx(text(tmp_path / "short.onnx", body, **tables)).dimensions["sequence"]
    assert (dimension.least, dimension.limit) == (1, 37)
    assert capfd.readouterr().err == ""  # the runtime's own complaints about what was tried are not the user's


def test_dimensions_without_a_name_get_one(tmp_path: Path) -> None:
    shape = ["batch size.0", None, 8]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "relu.onnx")
    assert list(from_onnx(tmp_path / "relu.onnx").dimensions) == ["batch_size_0", "x_1"]


@slow
@pytest.mark.parametrize("opset", [18, 23])
def test_minilm_exported_by_torch_alone(opset: int, tmp_path: Path) -> None:
    from edgeattn.exporters.sources.zoo import from_zoo

    module = from_zoo("minilm").module
    path = save(module, tmp_path / "minilm.onnx", opset)
    report = edgeattn.export(str(path), output=tmp_path / "out", runtimes=["onnxruntime:cpu", "openvino:cpu"])
    assert [site.spec.summary() for site in report.sites] == ["12 heads x 32, key_padding mask"] * 6
    assert report.unraised == ()
    assert report.passed
