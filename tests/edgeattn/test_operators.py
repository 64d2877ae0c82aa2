"""Operators that a file defines itself, and those it needs: what a bundle may bring is decided by them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeattn.bundle import MANIFEST, open_bundle
from edgeattn.bundle.folder import digest
from edgeattn.errors import BundleError
from edgeattn.operators import Operator, defined_operators, undefined_operators

FOREIGN = frozenset({"mine", "evil.corp"})


def node(operator: str, domain: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)


def function(name: str, domain: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1), helper.make_opsetid("evil.corp", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes or (node("Neg", ""),), opsets)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])])
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", *sorted(FOREIGN))]
    made: bytes = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10).SerializeToString()
    return made


def branch(inner: onnx.NodeProto) -> onnx.NodeProto:
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])]
    graphs = {
        name: helper.make_graph([part], name, [], out)
        for name, part in (("then_branch", node("Neg", "")), ("else_branch", inner))
    }
    return helper.make_node("If", ["c"], ["y"], **graphs)


DEFINED = function("Op", "mine")
CASES: dict[str, tuple[list[onnx.NodeProto], list[onnx.FunctionProto], list[Operator]]] = {
    "standard": ([node("Neg", "")], [], []),
    "defined": ([node("Op", "mine")], [DEFINED], []),
    "undefined": ([node("Op", "mine")], [], [Operator("mine", "Op")]),
    "another of the domain": ([node("Op", "mine"), node("Other", "mine")], [DEFINED], [Operator("mine", "Other")]),
    "the name in another domain": ([node("Op", "evil.corp")], [DEFINED], [Operator("evil.corp", "Op")]),
    "in a branch": ([branch(node("Hidden", "evil.corp"))], [DEFINED], [Operator("evil.corp", "Hidden")]),
    "in a branch of a branch": ([branch(branch(node("Hidden", "mine")))], [DEFINED], [Operator("mine", "Hidden")]),
    "in a function": ([node("Op", "mine")], [function("Op", "mine", node("Run", "evil.corp"))], [Operator("evil.corp", "Run")]),
    "a domain not asked for": ([node("Gelu", "com.microsoft")], [], []),
}


@pytest.mark.parametrize("case", CASES)
def test_undefined(case: str, tmp_path: Path) -> None:
    nodes, functions, undefined = CASES[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes, functions))
    assert undefined_operators(path, FOREIGN) == undefined
    assert defined_operators(path) == [Operator(f.domain, f.name) for f in functions]


@pytest.mark.parametrize("case", CASES)
def test_bundle_opens_only_where_the_file_defines_what_it_needs(case: str, folder: Path) -> None:
    nodes, functions, undefined = CASES[case]
    rewrite(folder, model(nodes, functions), domains={"": 18, "mine": 1, "evil.corp": 1})
    if not undefined:
        open_bundle(folder)
        return
    message = f"model.onnx needs {undefined[0]}, an operator of domain '{undefined[0].domain}', which bundles may not use"
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


def rewrite(folder: Path, content: bytes, domains: dict[str, int]) -> None:
    """Another model in a bundle, hashed as it ought to be."""
    (folder / "model.onnx").write_bytes(content)
    entry = digest(folder / "model.onnx")
    data = json.loads((folder / MANIFEST).read_text())
    data["files"]["model.onnx"] = {"sha256": entry.sha256, "size": entry.size}
    data["flavours"][0]["domains"] = domains
    (folder / MANIFEST).write_text(json.dumps(data))


def deep(levels: int) -> bytes:
    """Branches in branches, as bytes, since onnx itself refuses to build so many."""

    def field(number: int, content: bytes) -> bytes:
        size, out = len(content), b""
        while size > 127:
            out, size = out + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + out + bytes([size]) + content

    graph = field(1, field(4, b"Neg"))
    for _ in range(levels):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return field(7, graph)


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, b"graph", model([node("Op", "mine")], [])[:-3], deep(5000)])
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"m\.onnx is not a complete ONNX model"):
        undefined_operators(tmp_path / "m.onnx", FOREIGN)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_never_crashes(data: st.DataObject, tmp_path: Path) -> None:
    """What is read is a list of operators, or the error of an incomplete model, whatever the bytes are."""
    content = bytearray(model([branch(node("Op", "mine"))], [DEFINED]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.onnx").write_bytes(content)
    found = []
    with contextlib.suppress(BundleError):
        found += defined_operators(tmp_path / "m.onnx")
    with contextlib.suppress(BundleError):
        found += undefined_operators(tmp_path / "m.onnx", FOREIGN)
    assert all(isinstance(operator, Operator) for operator in found)
