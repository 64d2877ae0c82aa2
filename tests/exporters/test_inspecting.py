"""`edgeattn inspect` on somebody else's file: which attention it holds, in which form, and what an export would change."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from edgeattn.cli.group import cli
from edgeattn.exporters.inspecting import inspect_onnx

FILE = """
<ir_version: 11, opset_import: ["" : 23, "com.microsoft" : 1], producer_name: "acme", producer_version: "3">
g (float[batch, 2, sequence, 4] x, float[2, 4] gamma) => (float[batch, 2, sequence, 4] y, float[batch, 2, sequence, 4] z) <float s = {0.5}> {
    first = Attention <is_causal = 1> (x, x, x)
    t = Transpose <perm = [0, 1, 3, 2]> (first)
    p = MatMul (first, t)
    c = Mul (p, s)
    w = Softmax <axis = -1> (c)
    second = MatMul (w, first)
    y = com.microsoft.QuickGelu (second)
    n = Neg (p)
    u = Softmax <axis = -1> (n)
    z = MatMul (u, x)
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(FILE)
    for node, name in zip(
        proto.graph.node, ("front", "", "", "", "/layer.1/attn/Softmax", "", "", "", "backwards", ""), strict=True
    ):
        node.name = name
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_what_a_file_holds(path: Path) -> None:
    found = inspect_onnx(path)
    assert [(site.name, site.module, site.form, site.spec.summary()) for site in found.sites] == [
        ("front", "", "ai.onnx Attention", "2 heads x 4, causal"),
        ("/layer.1/attn/Softmax", "layer.1.attn", "MatMul, Softmax, MatMul", "2 heads x 4"),
    ]
    assert found.unraised == ("backwards",)
    assert found.rewritten == {"com.microsoft QuickGelu": 1}
    assert (found.opset, found.producer) == (23, "acme 3")
    assert [(info.name, info.dtype, info.dims) for info in found.outputs] == [
        (name, "float32", ("batch", 2, "sequence", 4)) for name in "yz"
    ]
    assert {target for site in found.sites for target in site.lowerings} == {"onnxruntime:cpu", "openvino:cpu"}


def test_the_command_prints_it(path: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    for line in (
        "made by acme 3",
        "2 attention sites, 1 not raised: backwards",
        "/layer.1/attn/Softmax  layer.1.attn  MatMul, Softmax, MatMul  2 heads x 4",
        "  write ai.onnx Attention as ",
        "  write com.microsoft QuickGelu in operators of ai.onnx (1 of them)",
        "  leave backwards as it is",
    ):
        assert line in result.output


def test_as_json(path: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(path), "--json"])
    data = json.loads(result.stdout)
    assert [site["form"] for site in data["sites"]] == ["ai.onnx Attention", "MatMul, Softmax, MatMul"]
    assert data["sites"][0]["spec"]["pattern"] == {"type": "causal", "alignment": "upper_left"}
    assert data["unraised"] == ["backwards"]
    assert data["inputs"][0] == {"name": "x", "dtype": "float32", "dims": ["batch", 2, "sequence", 4]}
