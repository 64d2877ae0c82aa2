"""A small bundle to break: two real files, one flavour, one golden case, one probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from edgeattn import bundle as bundles
from edgeattn.bundle import Bundle
from edgeattn.manifest import (
    FileEntry,
    Flavour,
    GoldenCase,
    Manifest,
    OutputInfo,
    ParityResult,
    Probe,
    Site,
    TensorInfo,
)
from edgeattn.spec import Causal, SoftmaxAttention, function_name
from edgeattn.tensors import write_tensors

# Machines that run tests are busy: the time of one example says nothing, and a failure must come back.
settings.register_profile("edgeattn", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeattn")

SPEC = SoftmaxAttention(4, 2, 8, pattern=Causal(), mask="key_padding")
FILES = {"model.onnx": b"graph", "weights-fp32.bin": b"weights" * 100, "probes/p.onnx": b"probe"}
GOLDEN = "golden/one.safetensors"


def make_manifest() -> Manifest:
    """Every kind of field filled in; no file hashed yet."""
    return Manifest(
        edgeattn="0.1.0",
        source={"kind": "factory", "name": "model.py:build"},
        inputs=(TensorInfo("x", "float32", ("batch", "length", 8)), TensorInfo("keep", "bool", ("batch", "length"))),
        outputs=(OutputInfo("y", "float32", ("batch", "length", 8)),),
        sites=(Site("attn_0", "layers.0.attn", function_name(SPEC), SPEC),),
        unraised=("layers.1.odd",),
        flavours=(
            Flavour(
                target="onnxruntime:cpu",
                precision="fp32",
                file="model.onnx",
                domains={"": 23, "com.microsoft": 1},
                lowerings={"attn_0": "onnx_attention"},
                reasons={"attn_0": "proven and fastest"},
                parity=ParityResult(True, 3, {"y": 1e-6}, {"y": 120.0}),
                environment={"onnxruntime": "1.31.1"},
                probes=("probes/p.onnx",),
            ),
        ),
        golden=(GoldenCase(GOLDEN, {"batch": 1, "length": 3}, {}),),
        probes=(Probe("probes/p.onnx", "onnx_attention", SPEC),),
        files={},
        padding="keep",
        limits={"length": 512},
        tokenizer={"kind": "none", "nested": [1, {"a": None}]},
        provenance={"licence": "Apache-2.0"},
    )


@pytest.fixture
def manifest() -> Manifest:
    """A manifest with every kind of field filled in."""
    entry = FileEntry("0" * 64, 1)
    filled = make_manifest()
    filled.files.update(dict.fromkeys([*FILES, GOLDEN], entry))
    return filled


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """make_bundle(name) writes a sound bundle and returns its folder."""

    def make(name: str = "bundle") -> Path:
        output = tmp_path / name
        with bundles.writing(output) as work:
            for file, content in FILES.items():
                (work / file).parent.mkdir(exist_ok=True)
                (work / file).write_bytes(content)
            (work / GOLDEN).parent.mkdir()
            write_tensors(work / GOLDEN, {"in.x": np.zeros((1, 3, 8), np.float32)})
            bundles.seal(work, make_manifest())
        return output

    return make


@pytest.fixture
def folder(make_bundle: Callable[..., Path]) -> Path:
    """The folder of a sound bundle."""
    return make_bundle()


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    """A sound bundle, opened."""
    return bundles.open_bundle(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
