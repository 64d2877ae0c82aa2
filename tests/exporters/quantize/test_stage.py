"""From a bundle at full precision to one in smaller numbers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edgeattn
from edgeattn.bundle import open_bundle, seal
from edgeattn.cli import cli
from edgeattn.errors import FeedError, UsageError
from edgeattn.exams import COSINE, Budget
from edgeattn.exporters.quantize.metric import load_metric
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.samples import SYNTHETIC
from edgeattn.exporters.quantize.stage import Wish, shrink
from edgeattn.runtimes import registry
from tests.exporters.quantize.small_encoder import VOCABULARY, draw

ORT, OV = "onnxruntime:cpu", "openvino:cpu"


def shrunk(bundle: Path, folder: Path, wish: Wish, *targets: str) -> tuple[Path, list[Outcome]]:
    """A copy of `bundle` with what `wish` asks for."""
    work = folder / "work"
    shutil.copytree(bundle, work)
    outcomes, _ = shrink(work, [registry.parse_target(target) for target in targets or (ORT,)], wish, None, lambda _: None)
    return work, outcomes


def check(bundle: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["check", str(bundle), *arguments])
    return result.exit_code, result.output


def test_one_kind_for_both_runtimes(encoder: Path, tmp_path: Path) -> None:
    work, outcomes = shrunk(encoder, tmp_path, Wish(("int8",), slower=True), ORT, OV)
    assert [outcome.origin for outcome in outcomes] == [SYNTHETIC] * 2
    manifest = open_bundle(work).manifest
    assert [flavour.label for flavour in manifest.flavours] == [f"{ORT} int8", f"{OV} int8"]
    assert sorted(file.name for file in work.glob("*.bin")) == ["onnxruntime-cpu-int8.bin", "openvino-cpu-int8.bin"]
    assert {probe.file for probe in manifest.probes} == {name for f in manifest.flavours for name in f.probes}
    assert {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()} == {
        *manifest.files,
        "manifest.json",
    }
    code, output = check(work)
    assert code == 0, output
    for name in ("onnxruntime", "openvino"):
        with edgeattn.load(work, name) as session:
            assert session.effective.precision == "int8 x9, inputs in int8"
            assert session.effective.details.get("dynamic quantization group", "64") == "64"
            assert session.run(draw(1)[0])["sentence_embedding"].shape == (1, 64)


def test_full_precision_beside_it(encoder: Path, tmp_path: Path) -> None:
    work, _ = shrunk(encoder, tmp_path, Wish(("fp32", "int8"), slower=True))
    feeds = draw(1)[0]
    with edgeattn.load(encoder, "onnxruntime") as session:
        expected = session.run(feeds)["hidden"]
    got = {}
    for precision in (None, "int8", "fp32"):
        with edgeattn.load(work, "onnxruntime", precision=precision) as session:
            got[precision] = session.run(feeds)["hidden"]
    np.testing.assert_array_equal(got["fp32"], expected)
    np.testing.assert_array_equal(got[None], got["int8"])
    assert np.abs(got["int8"] - expected).max() > 1e-5
    with pytest.raises(UsageError, match="unknown precision of onnxruntime:cpu 'int4'"):
        edgeattn.load(work, "onnxruntime", precision="int4")
    code, output = check(work, "-r", "onnxruntime")
    assert code == 0, output


def test_a_decoder(decoder: Path, tmp_path: Path) -> None:
    work, _ = shrunk(decoder, tmp_path, Wish(("int8",), slower=True), ORT, OV)
    code, output = check(work)
    assert code == 0, output
    result = CliRunner().invoke(cli, ["generate", str(work), "the cat", "--max-new-tokens", "4"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("bound", [0.9999999, float("nan")])
def test_bounds_that_are_missed_fail_the_check(encoder: Path, bound: float, tmp_path: Path) -> None:
    work, _ = shrunk(encoder, tmp_path, Wish(("int8",), slower=True))
    manifest = open_bundle(work).manifest
    (flavour,) = manifest.flavours
    assert flavour.quantized is not None
    tampered = replace(flavour, quantized=replace(flavour.quantized, bounds={"cosine": bound}))
    if np.isnan(bound):
        tampered = replace(flavour, quantized=replace(flavour.quantized, bounds={}))
    seal(work, replace(manifest, flavours=(tampered,)))
    code, output = check(work)
    assert code == 1
    assert ("it has no bounds" if np.isnan(bound) else "cosine at least 1, got 0.99") in output


def test_a_search_keeps_its_budget_on_samples_it_had_not_seen(encoder: Path, tmp_path: Path) -> None:
    budget = Budget(COSINE, 0.995)
    _, (outcome,) = shrunk(encoder, tmp_path, Wish(("auto",), budget, slower=True))
    assert outcome.reason == ""
    assert outcome.chosen in outcome.trials
    assert budget.holds(outcome.scores)
    assert outcome.chosen is not None
    assert budget.holds(outcome.chosen.scores)
    assert outcome.chosen.name != "int4"
    assert not budget.holds(next(trial for trial in outcome.trials if trial.name == "int4").scores)


def test_a_budget_out_of_reach(encoder: Path, tmp_path: Path) -> None:
    """Nothing of the bundle changes, and the reason says how near it came."""
    work, (outcome,) = shrunk(encoder, tmp_path, Wish(("auto",), Budget(COSINE, 1.0), slower=True, seconds=0))
    assert outcome.chosen is None
    assert "cosine at least 1 was asked; the best found is fp16 with 0.9999" in outcome.reason
    assert "which misses it by" in outcome.reason
    names = [{path.name for path in folder.rglob("*")} for folder in (work, encoder)]
    assert names[0] == names[1]


def test_a_metric_of_ones_own(encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "metric.py"
    file.write_text(
        "import numpy as np\nFEEDS = {'input_ids': np.arange(9)[None], 'attention_mask': np.ones((1, 9), np.int64)}\n"
        "def good(run):\n    return 10 - float(np.abs(run(FEEDS)['hidden']).mean())\n"
    )
    wish = Wish(("int8",), Budget("drop", 0.1), metric=load_metric(f"{file}:good"), slower=True)
    work, (outcome,) = shrunk(encoder, tmp_path, wish)
    assert outcome.reason == ""
    assert 0 < abs(outcome.scores["drop"]) < 0.1
    assert outcome.scores["metric"] == pytest.approx(10, abs=5)
    assert check(work)[0] == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [("return float('nan')", "--metric gave nan; expected a finite number"), ("return run({})", "--metric failed: FeedError")],
)
def test_a_metric_that_fails(encoder: Path, body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(f"def good(run):\n    {body}\n")
    wish = Wish(("int8",), Budget("drop", 0.1), metric=load_metric(f"{tmp_path / 'metric.py'}:good"), slower=True)
    with pytest.raises(UsageError, match=message):
        shrunk(encoder, tmp_path, wish)


def test_calibration_from_a_file_is_named(encoder: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(VOCABULARY, size=(16, 8))
    np.savez(tmp_path / "inputs.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    wish = Wish(("int8-dynamic",), calibration=tmp_path / "inputs.npz", slower=True)
    _, (outcome,) = shrunk(encoder, tmp_path, wish)
    assert outcome.origin == str(tmp_path / "inputs.npz")
    assert outcome.samples == 8


def test_calibration_that_does_not_fit(encoder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", ids=np.zeros((16, 8), np.int64))
    with pytest.raises(FeedError, match="unknown input 'ids'"):
        shrunk(encoder, tmp_path, Wish(("int8",), calibration=tmp_path / "inputs.npz", slower=True))


@pytest.mark.parametrize(("output", "size"), [("hidden", 64), (None, 64)])
def test_the_output_that_is_compared(encoder: Path, output: str | None, size: int, tmp_path: Path) -> None:
    work, _ = shrunk(encoder, tmp_path, Wish(("fp16",), output=output, slower=True))
    bundle = open_bundle(work)
    assert bundle.manifest.exam is not None
    name = bundle.manifest.outputs[bundle.manifest.exam.sizes["output"]].name
    assert name == (output or "sentence_embedding")
    assert check(work)[0] == 0


def test_an_output_that_is_none(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown output 'hiden'; did you mean 'hidden'"):
        shrunk(encoder, tmp_path, Wish(("fp16",), output="hiden", slower=True))
