"""`edgeattn export --precision`: what it refuses, when, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeattn.cli import cli
from edgeattn.exporters.quantize.kinds import KINDS, kinds_for

NOWHERE = "no_such_file.py:build"
"""A source that fails as soon as it is looked at: whoever complains about something else did so before."""
ORT = ("-r", "onnxruntime:cpu")
INT8 = ("--precision", "int8", "--allow-slower")
AUTO = ("--precision", "auto")
METRICS = """
import numpy as np
number = 3
def fails(run):
    raise KeyError("labels")
def nan(run):
    return float("nan")
def none(run):
    return None
"""


def export(source: str, output: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["export", source, "-o", str(output), *ORT, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (AUTO, "--precision auto needs a budget to keep: --min-cosine 0.999"),
        ((*AUTO, "--min-cosine", "0.9", "--min-top1", "0.9"), "one budget at a time, got cosine and top1"),
        (("--precision", "int9"), "unknown precision for onnxruntime 'int9'; did you mean 'int8'"),
        (("--precision", "int8-weights"), "unknown precision for onnxruntime 'int8-weights'; did you mean"),
        (("--precision", "small"), "known: fp16, int4, int8, int8-dynamic"),
        (("--min-cosine", "0.9"), "add --precision auto"),
        (("--precision", "fp32", "--calibration", "x.npz"), "add --precision auto"),
        ((*AUTO, "--max-drop", "1"), "--metric and --max-drop go together"),
        ((*INT8, "--metric", "m.py:f"), "--metric and --max-drop go together"),
        ((*AUTO, "--max-drop", "1", "--metric", "m.py:f"), "expected path/to/file.py:function, with a file that is there"),
        ((*AUTO, "--max-drop", "1", "--metric", "f"), "expected path/to/file.py:function"),
        ((*AUTO, "--min-cosine", "1.5"), "a budget of cosine 1.5: expected at most 1"),
        ((*AUTO, "--min-top1", "nan"), "a budget of top1 nan: expected at most 1"),
        ((*AUTO, "--max-perplexity-rise", "-0.1"), "a budget of perplexity_rise -0.1: expected 0 or more"),
        ((*INT8, "--calibration", "nowhere.npz"), "nowhere.npz is not there; give a .txt, .npz or .safetensors file"),
        ((*INT8, "--calibration", __file__), "calibration is read from .txt, .npz and .safetensors files"),
    ],
)
def test_refused_before_any_work(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, output = export(NOWHERE, tmp_path / "out", *arguments)
    assert code == 2
    assert message in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (METRICS, "missing", "has no function 'missing'; it has: fails, nan, none"),
        (METRICS, "number", "has no function 'number'; it has: fails, nan, none"),
        ("import no_such_module", "f", "failed to run: ModuleNotFoundError"),
        ("def f(:", "f", "failed to run: SyntaxError"),
    ],
)
def test_a_metric_that_cannot_be_had(tmp_path: Path, content: str, name: str, message: str) -> None:
    (tmp_path / "metric.py").write_text(content)
    code, output = export(NOWHERE, tmp_path / "out", *AUTO, "--max-drop", "1", "--metric", f"{tmp_path / 'metric.py'}:{name}")
    assert code == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_fixed_sizes_are_refused(encoder_source: str, tmp_path: Path) -> None:
    code, output = export(encoder_source, tmp_path / "out", *INT8, "--static-shapes", "batch=1,sequence=8")
    assert code == 2
    assert "sizes are fixed; smaller numbers are for a single model that takes any size: leave out --precision" in output
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    code, output = export(str(tmp_path / "bart"), tmp_path / "out", *INT8, "--cache", "dynamic")
    assert code == 2
    assert "has a model beside it (encoder); smaller numbers are for a single model" in output
    assert not (tmp_path / "out").exists()


def test_a_budget_out_of_reach(encoder_source: str, tmp_path: Path) -> None:
    arguments = (*AUTO, "--min-cosine", "1", "--search-time", "0", "--allow-slower")
    code, output = export(encoder_source, tmp_path / "out", *arguments)
    assert code == 1
    assert "no smaller numbers were found that keep what was asked; nothing was written" in output
    assert "cosine at least 1 was asked; the best found is fp16 with 0.99999" in output
    assert "which misses it by" in output
    assert all(kind.name in output for kind in kinds_for("onnxruntime"))
    assert list(tmp_path.glob("*out*")) == []


def test_a_metric_end_to_end(encoder_source: str, tmp_path: Path) -> None:
    """Its budget is kept, and the report has what was found."""
    (tmp_path / "metric.py").write_text(
        "import numpy as np\nFEEDS = {'input_ids': np.arange(9)[None], 'attention_mask': np.ones((1, 9), np.int64)}\n"
        "def good(run):\n    return -float(np.abs(run(FEEDS)['hidden']).mean())\n"
    )
    metric = ("--metric", f"{tmp_path / 'metric.py'}:good", "--max-drop", "0.5")
    ids = np.random.default_rng(0).integers(300, size=(16, 8))
    np.savez(tmp_path / "inputs.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    given = ("--calibration", str(tmp_path / "inputs.npz"), "--json")
    asked = [*ORT, *INT8, "--precision", "fp32", *metric, *given]
    exported = CliRunner().invoke(cli, ["export", encoder_source, "-o", str(tmp_path / "out"), *asked])
    assert exported.exit_code == 0, exported.output
    (found,) = json.loads(exported.stdout)["smaller"]
    assert found["origin"] == str(tmp_path / "inputs.npz")
    assert found["samples"] == 8
    assert abs(found["scores"]["drop"]) < 0.5
    assert [(row["name"], row["chosen"], row["pareto"]) for row in found["trials"]] == [("int8", True, True)]
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "out"), *ORT, "--json"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("name", "message"), [("fails", "--metric failed: KeyError: 'labels'"), ("nan", "--metric gave nan")])
def test_a_metric_that_fails(encoder_source: str, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(METRICS)
    metric = ("--metric", f"{tmp_path / 'metric.py'}:{name}", "--max-drop", "0.5")
    code, output = export(encoder_source, tmp_path / "out", *INT8, *metric)
    assert code == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_a_budget_of_another_sort_of_model(encoder_source: str, tmp_path: Path) -> None:
    code, output = export(encoder_source, tmp_path / "out", *AUTO, "--max-perplexity-rise", "0.02")
    assert code == 2
    assert "a budget of perplexity_rise is none for a model without a cache; it is measured in cosine" in output
    assert not (tmp_path / "out").exists()


def test_the_list_of_precisions() -> None:
    result = CliRunner().invoke(cli, ["list", "precisions"])
    assert result.exit_code == 0
    for kind in KINDS:
        assert any(line.split()[:1] and kind.name in line and kind.runtime in line for line in result.output.splitlines())
