"""A bundle of two models: both are opened, checked, shown and packed, and neither can be swapped or damaged unseen."""

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
from click.testing import CliRunner

from edgeattn import manifest as manifests
from edgeattn.bundle import MANIFEST, open_bundle, pack, part_manifest, seal
from edgeattn.checking import check
from edgeattn.cli import cli
from edgeattn.decoding import load_encoder_decoder
from edgeattn.errors import BundleError
from edgeattn.manifest import Manifest
from edgeattn.tensors import read_tensors, write_tensors
from tests.edgeattn.decoding.pairs import START, Pair
from tests.edgeattn.decoding.small import RUNTIMES

PART = part_manifest("encoder")


@pytest.fixture
def copied(pair: Pair, tmp_path: Path) -> Path:
    """A copy of the bundle to write into."""
    return Path(shutil.copytree(pair.bundle, tmp_path / "copy"))


def _reseal(bundle: Path, change: Callable[[Manifest], Manifest] = lambda part: part) -> None:
    """As somebody would who changes files and makes both manifests fit."""
    part, whole = (manifests.loads((bundle / name).read_text()) for name in (PART, MANIFEST))
    (bundle / PART).unlink()
    seal(bundle, replace(part, files={}), PART)
    sealed = manifests.loads((bundle / PART).read_text())
    (bundle / PART).write_text(
        manifests.dumps(change(replace(sealed, files={n: e for n, e in sealed.files.items() if n != MANIFEST})))
    )
    seal(bundle, whole)


def test_check_covers_both(pair: Pair) -> None:
    report = check(pair.bundle)
    assert report.passed
    names = [f"{name}:cpu" for name in RUNTIMES]
    assert [target.label for target in report.targets] == [*(f"encoder {name}" for name in names), *names]
    assert all(target.cases for target in report.targets)


def test_an_encoder_that_differs_fails_the_check(copied: Path, tmp_path: Path) -> None:
    case = next((copied / "golden" / "encoder").iterdir())
    tensors = {name: np.array(array) for name, array in read_tensors(case).items()}
    tensors["out.present.0.encoder.key"] += 1
    write_tensors(case, tensors)
    _reseal(copied)
    arguments = ["check", str(copied), "-r", "onnxruntime", "--junit", str(tmp_path / "parity.xml")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "encoder onnxruntime:cpu (flavour onnxruntime:cpu, fp32): FAILED, 1 of" in result.stdout
    assert "\nonnxruntime:cpu (flavour onnxruntime:cpu, fp32): PASSED" in result.stdout
    assert '<testsuite name="encoder onnxruntime:cpu"' in (tmp_path / "parity.xml").read_text()


def test_inspect_shows_both(pair: Pair) -> None:
    text = CliRunner().invoke(cli, ["inspect", str(pair.bundle)]).stdout
    encoder, decoder = text.split("== decoder ==")
    assert "== encoder ==" in encoder
    assert "present.1.encoder.value" in encoder
    assert "past_key_values.1.decoder.value" in decoder
    data = json.loads(CliRunner().invoke(cli, ["inspect", str(pair.bundle), "--json"]).stdout)
    assert len(data["parts"]["encoder"]["sites"]) == 2
    assert len(data["sites"]) == 4


def test_only_what_is_run_token_by_token_is_timed(pair: Pair) -> None:
    result = CliRunner().invoke(cli, ["bench", str(pair.bundle), "-r", "onnxruntime", "--repeats", "2", "--json"])
    assert result.exit_code == 0, result.output
    assert [row["target"] for row in json.loads(result.stdout)["rows"]] == ["onnxruntime:cpu"]


def test_a_packed_bundle_answers(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack(open_bundle(pair.bundle), tmp_path / "pair.edgeattn")
    feeds = {name: tensor.numpy() for name, tensor in pair.feeds(1).items()}
    said = []
    for bundle in (pair.bundle, tmp_path / "pair.edgeattn"):
        with load_encoder_decoder(bundle) as session:
            session.encode(feeds)
            said.append(session.prefill([[START]]))
    np.testing.assert_array_equal(said[0], said[1])


def test_a_damaged_part(copied: Path) -> None:
    path = copied / "encoder-onnxruntime-cpu.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"encoder-onnxruntime-cpu\.onnx does not match its SHA-256"):
        open_bundle(copied)


def test_a_part_without_its_manifest(copied: Path) -> None:
    (copied / PART).unlink()
    seal(copied, manifests.loads((copied / MANIFEST).read_text()))
    with pytest.raises(BundleError, match=r"manifest\.json uses 'encoder\.manifest\.json' but does not list its hash"):
        open_bundle(copied)


def _other_hash(part: Manifest) -> Manifest:
    name, entry = next(iter(part.files.items()))
    return replace(part, files={**part.files, name: replace(entry, sha256="0" * 64)})


def _foreign_file(part: Manifest) -> Manifest:
    return replace(part, files={**part.files, "../elsewhere.onnx": next(iter(part.files.values()))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_hash, r"encoder\.manifest\.json and manifest\.json differ in"),
        (_foreign_file, r"encoder\.manifest\.json and manifest\.json differ in '\.\./elsewhere\.onnx'"),
        (lambda part: replace(part, parts=("encoder",)), "has parts of its own"),
        (lambda part: replace(part, files={}), r"uses 'encoder-onnxruntime-cpu\.onnx' but does not list its hash"),
    ],
)
def test_a_manifest_of_a_part_that_does_not_fit(copied: Path, change: Any, message: str) -> None:
    _reseal(copied, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(copied)


def test_a_part_that_needs_foreign_code(copied: Path) -> None:
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    nodes = [onnx.helper.make_node("Run", ["x"], ["y"], domain="evil")]
    graph = onnx.helper.make_graph(nodes, "g", [info], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("evil", 1)])
    onnx.save(model, str(copied / "encoder-portable.onnx"))

    def said(part: Manifest) -> Manifest:
        return replace(part, flavours=tuple(replace(flavour, domains={"": 18, "evil": 1}) for flavour in part.flavours))

    _reseal(copied, said)
    with pytest.raises(BundleError, match=r"encoder-portable\.onnx needs .* operator of domain 'evil'"):
        open_bundle(copied)
