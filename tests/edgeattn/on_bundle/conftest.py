"""A tiny real bundle: one attention over embedded tokens, its expected outputs worked out in numpy, run by real runtimes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeattn import bundle as bundles
from edgeattn import manifest as manifests
from edgeattn.golden import write_case
from edgeattn.manifest import Flavour, Manifest, OutputInfo, ParityResult, Probe, Site, TensorInfo
from edgeattn.probe import environment
from edgeattn.spec import SoftmaxAttention

Array = NDArray[Any]

VOCABULARY, WIDTH, LONGEST = 50, 8, 512
SPEC = SoftmaxAttention(1, 1, WIDTH, mask="key_padding")
TARGETS = ("onnxruntime:cpu", "openvino:cpu", "portable", "canonical")
CASES = ({"batch": 1, "sequence": 1}, {"batch": 1, "sequence": 7}, {"batch": 3, "sequence": 16})


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    shapes = {"w_out": (WIDTH, WIDTH), "embedding": (VOCABULARY, WIDTH)} | dict.fromkeys(("w_q", "w_k", "w_v"), (WIDTH, WIDTH))
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _feeds(batch: int, sequence: int) -> dict[str, Array]:
    """Random tokens; the last row is padded in its last third, where there is one."""
    rng = np.random.default_rng([batch, sequence])
    mask = np.ones((batch, sequence), dtype=np.int64)
    if batch > 1:
        mask[-1, sequence - sequence // 3 :] = 0
    return {"input_ids": rng.integers(0, VOCABULARY, (batch, sequence)), "attention_mask": mask}


def _expected(feeds: dict[str, Array]) -> dict[str, Array]:
    w = {name: value.astype(np.float64) for name, value in _weights().items()}
    hidden = w["embedding"][feeds["input_ids"]]
    scores = (hidden @ w["w_q"]) @ (hidden @ w["w_k"]).swapaxes(1, 2) * SPEC.scale
    scores = np.where(feeds["attention_mask"][:, None, :] == 1, scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    state = shares / shares.sum(-1, keepdims=True) @ (hidden @ w["w_v"]) @ w["w_out"]
    summed = (state * feeds["attention_mask"][..., None]).sum(1)
    embedding = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    return {"last_hidden_state": state.astype(np.float32), "sentence_embedding": embedding.astype(np.float32)}


def _model(folder: Path, name: str, masked: bool = True) -> None:
    """Write the graph; its weights lie in weights-fp32.bin, `w_out` first."""
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["hidden"]),
        *(node("MatMul", ["hidden", f"w_{x}"], [x]) for x in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["raw"]),
        node("Mul", ["raw", "scale"], ["scores"]),
        node("Cast", ["attention_mask"], ["shown"], to=TensorProto.BOOL),
        node("Unsqueeze", ["shown", "one"], ["keys"]),
        node("Where", ["keys", "scores", "never"], ["visible"]),
        node("Softmax", ["visible" if masked else "scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["context"]),
        node("MatMul", ["context", "w_out"], ["last_hidden_state"]),
        node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["real", "two"], ["rows"]),
        node("Mul", ["last_hidden_state", "rows"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["summed"], keepdims=0),
        node("ReduceL2", ["summed", "one"], ["length"], keepdims=1),
        node("Div", ["summed", "length"], ["sentence_embedding"]),
    ]
    constants = {"scale": np.float32(SPEC.scale), "never": np.float32(-1e38), "one": np.array([1]), "two": np.array([2])}
    tokens = ["batch", "sequence"]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [info("input_ids", TensorProto.INT64, tokens), info("attention_mask", TensorProto.INT64, tokens)],
        [
            info("last_hidden_state", TensorProto.FLOAT, [*tokens, WIDTH]),
            info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH]),
        ],
        [*(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()), *_external(folder)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / name).write_bytes(model.SerializeToString())


def _external(folder: Path) -> list[onnx.TensorProto]:
    """The weights in one file, each at a multiple of 4096 bytes."""
    data, tensors = b"", []
    for name, value in _weights().items():
        tensor = numpy_helper.from_array(value, name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "weights-fp32.bin"), ("offset", len(data)), ("length", value.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(text)
        data += value.tobytes().ljust(4096, b"\0")
        tensors.append(tensor)
    (folder / "weights-fp32.bin").write_bytes(data)
    return tensors


def write_probe(path: Path, spec: SoftmaxAttention, mask: str = "where", pattern: Array | None = None) -> None:
    """Attention as one plain graph.

    `mask`: "where" (right: nothing visible gives zeros), "add" (-10000 on hidden scores, a well-known mistake) or
    "ignore". A causal pattern is computed from the sizes; `pattern` False leaves it out.
    """
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["raw"]),
        node("Mul", ["raw", "scale"], ["scores"]),
    ]
    inputs = [
        info("q", TensorProto.FLOAT, ["B", spec.q_heads, "S", spec.head_dim]),
        info("k", TensorProto.FLOAT, ["B", spec.kv_heads, "T", spec.head_dim]),
        info("v", TensorProto.FLOAT, ["B", spec.kv_heads, "T", spec.value_head_dim]),
    ]
    shown = ["causal"] if pattern is not None else []
    if pattern is not None:
        nodes += [
            node("Shape", ["scores"], ["size"], start=2),
            node("ConstantOfShape", ["size"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.int64))),
            node("Trilu", ["ones"], ["lower"], upper=0),
            node("Cast", ["lower"], ["causal"], to=TensorProto.BOOL),
        ]
    if spec.mask != "none":
        inputs.append(info("mask", TensorProto.BOOL, ["B", "T"]))
        nodes.append(node("Unsqueeze", ["mask", "axes"], ["keys"]))
        shown.append("keys")
    if len(shown) == 2:
        nodes.append(node("And", shown, ["shown"]))
    nodes += _probe_masking("shown" if len(shown) == 2 else shown[0] if shown else "", mask)
    constants = {
        "scale": np.float32(spec.scale), "never": np.float32(-1e38), "zero": np.float32(0), "much": np.float32(-1e4),
        "axes": np.array([1, 2]),
    }  # fmt: skip
    out = info("out", TensorProto.FLOAT, ["B", spec.q_heads, "S", spec.value_head_dim])
    graph = helper.make_graph(
        nodes, "probe", inputs, [out], [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def _probe_masking(shown: str, mask: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    if not shown or mask == "ignore":
        return [node("Softmax", ["scores"], ["shares"]), node("MatMul", ["shares", "v"], ["out"])]
    if mask == "add":
        return [
            node("Where", [shown, "zero", "much"], ["penalty"]),
            node("Add", ["scores", "penalty"], ["visible"]),
            node("Softmax", ["visible"], ["shares"]),
            node("MatMul", ["shares", "v"], ["out"]),
        ]
    return [
        node("Where", [shown, "scores", "never"], ["visible"]),
        node("Softmax", ["visible"], ["all_shares"]),
        node("Where", [shown, "all_shares", "zero"], ["shares"]),
        node("MatMul", ["shares", "v"], ["out"]),
    ]


def build(output: Path, masked: bool = True, targets: tuple[str, ...] = TARGETS, probe: str = "where") -> Path:
    """Write the bundle. `masked` False makes a model that ignores padding; `probe` is the form of its probe's mask."""
    with bundles.writing(output) as folder:
        _model(folder, "model.onnx", masked)
        write_probe(folder / "probes" / "core.onnx", SPEC, probe)
        golden = []
        for sizes in CASES:
            feeds = _feeds(**sizes)
            golden.append(write_case(folder, f"b{sizes['batch']}-s{sizes['sequence']}", sizes, feeds, _expected(feeds)))
        tokens = ("batch", "sequence")
        manifest = Manifest(
            edgeattn="0.1.0",
            source={"kind": "factory", "name": "tiny"},
            inputs=(TensorInfo("input_ids", "int64", tokens), TensorInfo("attention_mask", "int64", tokens)),
            outputs=(
                OutputInfo("last_hidden_state", "float32", (*tokens, WIDTH)),
                OutputInfo("sentence_embedding", "float32", ("batch", WIDTH), "normalized"),
            ),
            sites=(Site("attention_0", "encoder.layer.0.attention", "Attention_tiny", SPEC),),
            unraised=(),
            flavours=tuple(_flavour(target) for target in targets),
            golden=tuple(golden),
            probes=(Probe("probes/core.onnx", "decomposed", SPEC),),
            files={},
            padding="attention_mask",
            limits={"sequence": LONGEST},
            provenance={"licence": "Apache-2.0"},
        )
        bundles.seal(folder, manifest)
    return output


def _flavour(target: str) -> Flavour:
    runtime = target.partition(":")[0] if ":" in target else "onnxruntime"
    return Flavour(
        target=target,
        precision="fp32",
        file="model.onnx",
        domains={"": 18},
        lowerings={"attention_0": "decomposed"},
        reasons={"attention_0": "the only one"},
        parity=ParityResult(True, 3, {"last_hidden_state": 1e-7, "sentence_embedding": 1e-8}, {"last_hidden_state": 140.0}),
        environment={} if target == "canonical" else environment(runtime, "cpu"),
        probes=() if target == "canonical" else ("probes/core.onnx",),
    )


def read_manifest(path: Path) -> Manifest:
    return manifests.loads((path / "manifest.json").read_text())


def reseal(path: Path, **changes: Any) -> None:
    """Change fields of the manifest, and hash every file anew, as somebody would who edits a bundle on purpose."""
    bundles.seal(path, replace(read_manifest(path), **changes))


def scale_weight(path: Path, factor: float) -> None:
    """Multiply the first row of the attention's output projection."""
    weights = np.memmap(path / "weights-fp32.bin", np.float32, "r+", shape=(WIDTH, WIDTH))
    weights[0] *= factor
    weights.flush()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs and unpacked bundles of one test are nobody else's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def tiny(_built: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that the test may edit."""
    return Path(shutil.copytree(_built, tmp_path / "tiny"))


@pytest.fixture
def make() -> dict[str, Callable[..., Any]]:
    """The functions of this file, by name, for tests that need a bundle with a fault."""
    return {
        "bundle": build, "reseal": reseal, "scale_weight": scale_weight, "probe": write_probe, "manifest": read_manifest,
        "feeds": _feeds, "expected": _expected,
    }  # fmt: skip


@pytest.fixture
def read_json() -> Callable[[str], Any]:
    """Strict JSON: a NaN or Infinity in a command's output is an error."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    return lambda text: json.loads(text, parse_constant=refuse)
