"""The real model, with its real weights: what a newcomer's first command makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgeattn
from edgeattn.bundle import digest, open_bundle
from edgeattn.exporters.export import ExportFailedError
from edgeattn.exporters.sources.huggingface import attention as transformers_attention
from edgeattn.exporters.sources.zoo import from_zoo
from edgeattn.spec import SoftmaxAttention

SITE = SoftmaxAttention(q_heads=12, kv_heads=12, head_dim=32, mask="key_padding")
MODULES = tuple(f"model.encoder.layer.{i}.attention.self" for i in range(6))
HIDDEN, EMBEDDING = 2e-5, 1e-6


def test_six_sites_with_spec_lowering_and_module(minilm_bundle: Path) -> None:
    manifest = open_bundle(minilm_bundle).manifest
    assert [(site.module, site.spec) for site in manifest.sites] == [(module, SITE) for module in MODULES]
    assert manifest.unraised == ()
    for target in ("onnxruntime:cpu", "openvino:cpu", "portable"):
        flavour = manifest.flavour(target)
        assert flavour is not None
        assert set(flavour.lowerings) == {site.name for site in manifest.sites}


def test_check_passes_at_every_size_on_both_runtimes(minilm_bundle: Path) -> None:
    report = edgeattn.check(minilm_bundle)
    assert report.passed
    assert [target.target for target in report.targets] == ["onnxruntime:cpu", "openvino:cpu"]
    sizes = {(batch, sequence) for batch in (1, 3, 8) for sequence in (1, 7, 128, 333, 512)}
    for target in report.targets:
        assert {(case.sizes["batch"], case.sizes["sequence"]) for case in target.cases} == sizes
        worst = target.worst()
        assert worst["last_hidden_state"] <= HIDDEN
        assert worst["sentence_embedding"] <= EMBEDDING


def test_golden_cases_hold_padded_rows(minilm_bundle: Path) -> None:
    from edgeattn.golden import read_case

    bundle = open_bundle(minilm_bundle)
    cases = [read_case(bundle, case) for case in bundle.manifest.golden]
    padded = [case for case in cases if (case.inputs["attention_mask"] == 0).any()]
    # a row of one token, or a single row of even length, has no padding; all others do
    assert {(c.sizes["batch"], c.sizes["sequence"]) for c in cases} - {
        (c.sizes["batch"], c.sizes["sequence"]) for c in padded
    } == {(1, 1), (3, 1), (8, 1), (1, 128), (1, 512)}


def test_the_canonical_file_holds_six_nodes_and_runs_as_it_is(minilm_bundle: Path) -> None:
    model = onnx.load(minilm_bundle / "canonical.onnx", load_external_data=False)
    assert [node.domain for node in model.graph.node].count("edgeattn") == 6
    assert len(model.functions) == 1
    source = from_zoo("minilm")
    inputs = source.sample({"batch": 3, "sequence": 40}, torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = source.module(**inputs)
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    valid = feeds["attention_mask"].astype(bool)
    for runtime in ("reference", "onnxruntime"):
        with edgeattn.load(minilm_bundle, runtime=runtime, flavour="canonical") as session:
            got = session.run(feeds)
        assert np.abs(got["last_hidden_state"] - expected["last_hidden_state"].numpy())[valid].max() <= HIDDEN
        assert np.abs(got["sentence_embedding"] - expected["sentence_embedding"].numpy()).max() <= EMBEDDING


def test_one_scaled_row_of_an_output_projection_fails(minilm_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(minilm_bundle, copy)
    weight = "model.encoder.layer.3.attention.output.dense.weight.T"
    tensor = next(t for t in onnx.load(copy / "canonical.onnx", load_external_data=False).graph.initializer if t.name == weight)
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    values = np.memmap(copy / "weights-fp32.bin", np.float32, "r+", offset, tuple(tensor.dims))
    values[:, 7] *= 10
    values.flush()
    refused = _cli("check", str(copy))
    assert refused.returncode == 2
    assert "does not match its SHA-256" in refused.stderr
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["weights-fp32.bin"]["sha256"] = digest(copy / "weights-fp32.bin").sha256
    (copy / "manifest.json").write_text(json.dumps(manifest))
    failed = _cli("check", str(copy))
    assert failed.returncode == 1
    assert "parity: FAILED" in failed.stdout
    bench = _cli("bench", str(copy), "-r", "onnxruntime:cpu", "--repeats", "2")
    assert bench.returncode == 1
    assert "not timed" in bench.stdout


def test_a_lost_padding_mask_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers passes no mask to an attention whose mask interface is not registered; here ours gives None."""

    @contextmanager
    def exporting(model: object) -> Iterator[None]:
        monkeypatch.setattr(transformers_attention, "described_mask", lambda *_, **__: None)
        with original(model):
            yield

    original = transformers_attention.exporting
    monkeypatch.setattr("edgeattn.exporters.sources.huggingface.folder.exporting", exporting)
    with pytest.raises(ExportFailedError, match="last_hidden_state at"):
        edgeattn.export("minilm", output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


SENTENCES = """
import sys
import numpy as np
import edgeattn
from edgeattn.text import encode
bundle = edgeattn.open_bundle(sys.argv[1])
texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell sharply today."]
with edgeattn.load(bundle) as session:
    a, b, c = session.run(encode(bundle, texts))["sentence_embedding"]
assert a @ b > a @ c + 0.3 and a @ b > b @ c + 0.3, (a @ b, a @ c, b @ c)
print("modules:", " ".join(sorted(m for m in ("torch", "onnx", "click", "transformers", "openvino") if m in sys.modules)))
"""


def test_sentences_of_one_meaning_are_close_on_a_device_environment(minilm_bundle: Path, tmp_path: Path) -> None:
    """An environment that sees numpy, tokenizers and onnxruntime, and what those import, and nothing else."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("numpy", "tokenizers", "onnxruntime", "edgeattn"):
        _link(name, site)
    (site / "numpy.libs").symlink_to(Path(np.__file__).parent.parent / "numpy.libs")
    script = tmp_path / "device.py"
    script.write_text(SENTENCES)
    environment = {"PYTHONPATH": str(site), "HOME": str(tmp_path)}
    command = [sys.executable, "-S", str(script), str(minilm_bundle)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "modules:"


def test_lee_corpus_agrees_with_people_as_pytorch_does(minilm_bundle: Path) -> None:
    """Pearson correlation with human similarity judgements (Lee, Pincombe and Welsh 2005): .6538 in PyTorch."""
    script = Path(__file__).parents[2] / "benchmarks" / "lee.py"
    result = subprocess.run(
        [sys.executable, str(script), str(minilm_bundle), "--json"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {"pytorch", "onnxruntime", "openvino"}
    for value in found.values():
        assert round(value, 4) == 0.6538
        assert value == pytest.approx(found["pytorch"], abs=1e-6)


def _link(name: str, site: Path) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations)))
    if name == "edgeattn":  # an editable install maps its sub-packages elsewhere
        shutil.copytree(folder, site / name, symlinks=False)
    else:
        (site / name).symlink_to(folder)


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgeattn", *arguments], capture_output=True, text=True, check=False)
