"""The main job on a small model: what is written, what is refused, and that a failure leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import edgeattn
from edgeattn.bundle import digest, open_bundle
from edgeattn.cli import cli
from edgeattn.errors import CaptureError, GateError, LoweringError, RuntimeMissingError, UsageError
from edgeattn.exporters.export import ExportFailedError
from edgeattn.manifest import Flavour


def test_every_flavour_is_written_and_proven(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert [flavour.target for flavour in manifest.flavours] == ["onnxruntime:cpu", "openvino:cpu", "portable", "canonical"]
    assert [site.spec.summary() for site in manifest.sites] == [
        "4q/2kv heads x 8, key_padding mask",
        "2 heads x 16, causal",
    ]
    assert manifest.unraised == ()
    for flavour in manifest.flavours:
        assert flavour.parity is not None
        assert flavour.parity.passed
        assert 0 < flavour.parity.max_abs_error["hidden"] < 2e-5


def test_module_paths_are_those_of_the_users_module(tiny_bundle: Path) -> None:
    assert [site.module for site in open_bundle(tiny_bundle).manifest.sites] == ["first", ""]


def test_flavours_use_the_domains_they_say(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    for flavour in bundle.manifest.flavours:
        model = onnx.load(bundle.file(flavour.file), load_external_data=False)
        assert {entry.domain: entry.version for entry in model.opset_import} == flavour.domains
        used = {node.domain for node in model.graph.node}
        assert used <= set(flavour.domains)
    assert _flavour(tiny_bundle, "portable").domains == {"": 18}


def test_portable_is_plain_opset_18(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "portable.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.domain for node in model.graph.node)
    assert len(model.functions) == 0


def test_weights_are_stored_once(tiny_bundle: Path) -> None:
    locations = set()
    for path in tiny_bundle.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                locations.add(next(entry.value for entry in tensor.external_data if entry.key == "location"))
    assert locations == {"weights-fp32.bin"}


def test_no_file_names_a_path_of_this_machine(tiny_bundle: Path) -> None:
    folders = {str(Path.cwd()), str(Path(edgeattn.__file__).parent), str(Path(torch.__file__).parent.parent)}
    for path in tiny_bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [folder for folder in folders if folder.encode() in data], path.name


def test_the_bundle_runs_where_it_was_not_traced(tiny_bundle: Path, tiny_source: str) -> None:
    from edgeattn.exporters.sources.resolve import resolve

    source = resolve(tiny_source)
    inputs = source.sample({"batch": 5, "sequence": 61}, torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = source.module(**inputs)["hidden"].numpy()
    valid = inputs["attention_mask"].numpy().astype(bool)
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    for runtime in ("onnxruntime", "openvino", "reference"):
        with edgeattn.load(tiny_bundle, runtime=runtime) as session:
            np.testing.assert_allclose(session.run(feeds)["hidden"][valid], expected[valid], atol=2e-5)


def test_a_live_module_exports(tmp_path: Path) -> None:
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
            return result

    report = edgeattn.export(
        Wrapped(), {"x": torch.randn(2, 5, 8)}, dynamic={"x": {0: "batch", 1: "sequence"}}, output=tmp_path / "out"
    )
    assert report.passed
    assert [site.spec.summary() for site in report.sites] == ["2 heads x 4"]


def test_a_live_module_keeps_its_modes(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    module.train()
    module[1].eval()

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(x)
            return result

    edgeattn.export(Named(), {"x": torch.randn(2, 4)}, output=tmp_path / "out")
    assert [module.training, module[0].training, module[1].training] == [True, True, False]


def test_unmasked_attention_is_right_on_openvino_alone(tmp_path: Path) -> None:
    """Its unmasked kernel goes wrong after a run with a single key; the first golden case is of length 1."""

    class Bare(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    inputs, dynamic = {"x": 3 * torch.randn(2, 2, 5, 16)}, {"x": {0: "batch", 2: "sequence"}}
    report = edgeattn.export(Bare(), inputs, dynamic=dynamic, output=tmp_path / "out", runtimes=["openvino:cpu"])
    assert report.passed
    assert edgeattn.check(tmp_path / "out").passed


def test_forced_lowering_is_used_everywhere(tmp_path: Path, tiny_source: str) -> None:
    edgeattn.export(tiny_source, output=tmp_path / "out", lowering="decomposed")
    flavour = _flavour(tmp_path / "out", "onnxruntime:cpu")
    assert set(flavour.lowerings.values()) == {"decomposed"}
    assert set(flavour.reasons.values()) == {"forced"}


def test_forced_lowering_that_does_not_fit_is_refused(tmp_path: Path, tiny_source: str) -> None:
    with pytest.raises(LoweringError, match=r"contrib-gqa cannot write 4q/2kv heads x 8, key_padding mask .* always causal"):
        edgeattn.export(tiny_source, output=tmp_path / "out", lowering="contrib-gqa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"runtimes": ["onnxrutime:cpu"]}, UsageError, "unknown runtime 'onnxrutime'; did you mean 'onnxruntime'"),
        ({"runtimes": ["onnxruntime:gpu"]}, UsageError, "unknown device of runtime 'onnxruntime' 'gpu'"),
        ({"runtimes": ["openvino:npu"]}, RuntimeMissingError, "has no device 'npu' here; it has: .*cpu"),
        ({"runtimes": []}, UsageError, "at least one"),
        ({"runtimes": ["reference"]}, UsageError, "every bundle holds a flavour for reference"),
        ({"lowering": "decomposd"}, UsageError, "unknown lowering 'decomposd'; did you mean 'decomposed'"),
        ({"inputs": {"x": torch.zeros(1)}}, UsageError, "brings its own inputs"),
    ],
)
def test_wrong_use_is_refused_before_any_work(
    tmp_path: Path, tiny_source: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        edgeattn.export(tiny_source, output=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["export", "minilmm", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "unknown source 'minilmm'; did you mean 'minilm'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_existing_output_needs_force(tmp_path: Path, tiny_source: str) -> None:
    output = tmp_path / "out"
    edgeattn.export(tiny_source, output=output)
    before = digest(output / "manifest.json")
    with pytest.raises(UsageError, match="exists; choose another -o, or pass --force"):
        edgeattn.export(tiny_source, output=output, lowering="decomposed")
    assert digest(output / "manifest.json") == before
    edgeattn.export(tiny_source, output=output, lowering="decomposed", force=True)
    assert set(_flavour(output, "onnxruntime:cpu").lowerings.values()) == {"decomposed"}


def test_force_does_not_replace_what_is_no_bundle(tmp_path: Path, tiny_source: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not a bundle; --force replaces bundles only"):
        edgeattn.export(tiny_source, output=tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


class _Shifted(torch.nn.Module):
    """A model that computes something else while it is exported, as a wrong translation would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        return y + 1e-3 if torch.compiler.is_exporting() else y


def test_a_different_model_fails_the_gate_and_leaves_nothing(tmp_path: Path) -> None:
    inputs, dynamic = {"x": torch.randn(2, 2, 5, 8)}, {"x": {0: "batch", 2: "sequence"}}
    with pytest.raises(
        ExportFailedError, match=r"onnxruntime:cpu: output at .*max error 0\.001.*table allows 2e-05"
    ) as failure:
        edgeattn.export(_Shifted(), inputs, dynamic=dynamic, output=tmp_path / "out")
    assert isinstance(failure.value, GateError)
    assert not failure.value.report.passed
    assert list(tmp_path.iterdir()) == []


def test_a_failed_model_can_be_kept_but_not_loaded(tmp_path: Path) -> None:
    inputs, dynamic = {"x": torch.randn(2, 2, 5, 8)}, {"x": {0: "batch", 2: "sequence"}}
    report = edgeattn.export(_Shifted(), inputs, dynamic=dynamic, output=tmp_path / "out", keep_failed=True)
    assert not report.passed
    with pytest.raises(GateError, match="parity"):
        edgeattn.load(tmp_path / "out")
    assert not edgeattn.check(tmp_path / "out").passed


def test_control_flow_on_values_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "branching.py"
    path.write_text(
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            return x + 1\n"
        "        return x - 1\n"
        "def build():\n"
        "    return Model(), {'x': torch.randn(2, 3)}\n"
    )
    with pytest.raises(CaptureError, match=r"branching\.py:4") as failure:
        edgeattn.export(f"{path}:build", output=tmp_path / "out")
    assert "depends on the values" in str(failure.value)
    assert "torch.where" in str(failure.value)
    assert not (tmp_path / "out").exists()


def test_json_is_the_whole_report(tmp_path: Path, tiny_source: str) -> None:
    result = CliRunner().invoke(cli, ["export", tiny_source, "-o", str(tmp_path / "out"), "-r", "onnxruntime:cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"] is True
    assert [row["target"] for row in report["flavours"]] == ["onnxruntime:cpu", "portable", "canonical"]


def test_the_table_names_the_next_command(tmp_path: Path, tiny_source: str) -> None:
    output = tmp_path / "out"
    result = CliRunner().invoke(cli, ["export", tiny_source, "-o", str(output), "-r", "onnxruntime:cpu"])
    assert result.exit_code == 0, result.stderr
    assert "2 attention sites, 0 missed" in result.stdout
    assert f"next: edgeattn bench {output}" in result.stdout


def test_a_kill_in_mid_export_leaves_nothing_half(tmp_path: Path, tiny_source: str) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "edgeattn", "export", tiny_source, "-o", str(output), "-r", "onnxruntime:cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.partial-*/weights-fp32.bin")):
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    edgeattn.export(tiny_source, output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, tiny_source: str) -> None:
    """A file-size limit makes every larger write fail, as a full disk would."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [sys.executable, "-m", "edgeattn", "export", tiny_source, "-o", str(tmp_path / "out"), "-r", "onnxruntime:cpu"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=environment, check=False)
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_edited_weight_is_caught_by_hash_then_by_parity(tmp_path: Path, tiny_bundle: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    scale_row(copy, "out.weight.T", 10.0)
    refused = CliRunner().invoke(cli, ["check", str(copy)])
    assert refused.exit_code == 2
    assert "does not match its SHA-256" in refused.stderr
    rehash(copy)
    assert CliRunner().invoke(cli, ["check", str(copy)]).exit_code == 1
    bench = CliRunner().invoke(cli, ["bench", str(copy), "--repeats", "2", "--json"])
    assert bench.exit_code == 1
    assert [row["latency"] for row in json.loads(bench.stdout)["rows"]] == [None, None]
    whole = CliRunner().invoke(cli, ["bench", str(tiny_bundle), "--repeats", "2", "--json"])
    assert all(row["latency"]["median_ms"] > 0 for row in json.loads(whole.stdout)["rows"])


def scale_row(bundle: Path, weight: str, factor: float) -> None:
    """Multiply one row of a linear map (a column of the transposed weight) inside the shared weight file."""
    model = onnx.load(bundle / "canonical.onnx", load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    place = {entry.key: entry.value for entry in tensor.external_data}
    values = np.memmap(bundle / place["location"], np.float32, "r+", int(place["offset"]), tuple(tensor.dims))
    values[:, 0] *= factor
    values.flush()


def rehash(bundle: Path) -> None:
    """Write the files' present hashes into the manifest, as a careful forger would."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        entry = digest(bundle / name)
        manifest["files"][name] = {"sha256": entry.sha256, "size": entry.size}
    path.write_text(json.dumps(manifest))


def _flavour(bundle: Path, target: str) -> Flavour:
    flavour = open_bundle(bundle).manifest.flavour(target)
    assert flavour is not None
    return flavour
