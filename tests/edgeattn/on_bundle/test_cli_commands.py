"""The commands, through click on a real bundle: output, JSON and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeattn.cli import cli
from edgeattn.cli.group import COMMANDS

Make = dict[str, Callable[..., Any]]
ReadJson = Callable[[str], Any]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"export"}))
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"edgeattn {name}" in result.stdout
    assert "--json" in result.stdout


def test_check_passes_and_prints_every_case(tiny: Path) -> None:
    result = run("check", tiny)
    assert result.exit_code == 0
    assert "parity: PASSED" in result.stdout
    assert result.stdout.count("sentence_embedding") == 6
    assert "checking" in result.stderr
    assert "checking" not in result.stdout


def test_check_json(tiny: Path, read_json: ReadJson, tmp_path: Path) -> None:
    result = run("check", tiny, "-r", "onnxruntime:cpu", "--json", "--junit", tmp_path / "j.xml")
    data = read_json(result.stdout)
    assert data["passed"] is True
    assert data["targets"][0]["cases"][0]["outputs"][0]["output"] == "last_hidden_state"
    assert (tmp_path / "j.xml").read_text().startswith("<?xml")


def test_an_edited_bundle_is_wrong_input_and_a_rehashed_one_a_failed_gate(tiny: Path, make: Make) -> None:
    make["scale_weight"](tiny, 10)
    edited = run("check", tiny)
    assert edited.exit_code == 2
    assert "SHA-256" in edited.stderr
    assert edited.stdout == ""
    make["reseal"](tiny)
    rehashed = run("check", tiny)
    assert rehashed.exit_code == 1
    assert "parity: FAILED" in rehashed.stdout


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_no_number_of_milliseconds_for_what_failed(tiny: Path, make: Make, command: str, read_json: ReadJson) -> None:
    make["scale_weight"](tiny, 10)
    make["reseal"](tiny)
    result = run(command, tiny, "--repeats", 2)
    assert result.exit_code == 1
    assert result.stdout.count("not timed") == 2
    data = read_json(run(command, tiny, "--repeats", 2, "--json").stdout)
    assert all(row["latency"] is None and row["fresh"] is None for row in data["rows"])


def test_bench_prints_ratio_and_machine(tiny: Path) -> None:
    result = run("bench", tiny, "--size", "sequence=8", "--repeats", 3, "--warmup", 0)
    assert result.exit_code == 0
    assert "baseline" in result.stdout
    assert "batch 1, sequence 8" in result.stdout
    assert "machine: " in result.stdout


def test_compare_two_bundles(tiny: Path, tmp_path: Path, make: Make, read_json: ReadJson) -> None:
    other = make["bundle"](tmp_path / "other")
    result = run("compare", tiny, other, "-r", "onnxruntime:cpu", "--repeats", 3, "--json")
    assert result.exit_code == 0
    rows = read_json(result.stdout)["rows"]
    assert [row["bundle"] for row in rows] == ["tiny", "other"]
    assert rows[1]["ratio"]["verdict"] in ("faster", "slower", "inconclusive")


def test_run_on_arrays(tiny: Path, make: Make, tmp_path: Path, read_json: ReadJson) -> None:
    feeds = make["feeds"](2, 6)
    np.savez(tmp_path / "x.npz", **feeds)
    result = run("run", tiny, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert result.exit_code == 0
    assert "sentence_embedding" in result.stdout
    with np.load(tmp_path / "y.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["sentence_embedding"], make["expected"](feeds)["sentence_embedding"], atol=1e-6)
    data = read_json(run("run", tiny, "--input", tmp_path / "x.npz", "--json", "-r", "openvino").stdout)
    assert data["outputs"]["last_hidden_state"]["shape"] == [2, 6, 8]
    assert data["flavour"] == "openvino:cpu"


def test_run_never_unpickles(tiny: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input_ids=np.array([{"a": 1}], dtype=object))
    result = run("run", tiny, "--input", tmp_path / "x.npz")
    assert result.exit_code == 2
    assert "plain arrays" in result.stderr


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_run_on_a_file_that_is_no_npz(tiny: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    result = run("run", tiny, "--input", tmp_path / "x.npz")
    assert result.exit_code == 2
    assert "x.npz" in result.stderr


def test_run_needs_one_kind_of_input(tiny: Path) -> None:
    assert "either --input" in run("run", tiny).stderr
    assert "no tokenizer" in run("run", tiny, "--text", "hello").stderr
    assert run("run", tiny, "--input", "absent.npz").exit_code == 2


def _add_tokenizer(tiny: Path, make: Make, **settings: Any) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2, "dog": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=20, pad_id=0, pad_token="[PAD]")
    (tiny / "tokenizer").mkdir()
    tokenizer.save(str(tiny / "tokenizer" / "tokenizer.json"))
    inputs = {"input_ids": "ids", "attention_mask": "attention_mask"}
    make["reseal"](tiny, tokenizer={"file": "tokenizer/tokenizer.json", "max_length": 4, "inputs": inputs, **settings})


def test_run_on_text(tiny: Path, make: Make, read_json: ReadJson) -> None:
    _add_tokenizer(tiny, make)
    result = run("run", tiny, "--text", "cat", "--text", "cat dog cat dog cat dog", "--json")
    assert result.exit_code == 0
    # padded to the longest, which was cut at max_length
    assert read_json(result.stdout)["outputs"]["last_hidden_state"]["shape"] == [2, 4, 8]


@pytest.mark.parametrize(
    "settings", [{"inputs": {"input_ids": "__class__"}}, {"inputs": None}, {"max_length": 0}, {"file": "../../etc/passwd"}]
)
def test_malformed_tokenizer_settings_are_a_bad_bundle(tiny: Path, make: Make, settings: dict[str, Any]) -> None:
    _add_tokenizer(tiny, make, **settings)
    assert run("run", tiny, "--text", "cat").exit_code == 2


def test_a_tokenizer_that_is_none_is_a_bad_bundle(tiny: Path, make: Make) -> None:
    _add_tokenizer(tiny, make)
    (tiny / "tokenizer" / "tokenizer.json").write_text("{}")
    make["reseal"](tiny)
    result = run("run", tiny, "--text", "cat")
    assert result.exit_code == 2
    assert "tokenizer" in result.stderr


def test_inspect(tiny: Path, make: Make, read_json: ReadJson) -> None:
    result = run("inspect", tiny)
    assert result.exit_code == 0
    assert "encoder.layer.0.attention" in result.stdout
    assert make["manifest"](tiny).sites[0].spec.summary() in result.stdout
    assert "none missed" in result.stdout
    data = read_json(run("inspect", tiny, "--json").stdout)
    assert data["sites"][0]["lowerings"]["openvino:cpu"] == "decomposed"
    assert data["flavours"][0]["domains"] == {"": 18}
    make["reseal"](tiny, unraised=("encoder.pooler",))
    assert "1 not raised: encoder.pooler" in run("inspect", tiny).stdout


def test_inspect_shows_a_failed_parity(tiny: Path, make: Make) -> None:
    flavour = make["manifest"](tiny).flavours[0]
    make["reseal"](tiny, flavours=(replace(flavour, parity=replace(flavour.parity, passed=False)),))
    assert "FAILED" in run("inspect", tiny).stdout


@pytest.mark.parametrize("command", ["check", "bench", "inspect"])
def test_truncated_and_foreign_bundles(tiny: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "foreign").mkdir()
    assert run(command, tmp_path / "foreign").exit_code == 2
    with (tiny / "weights-fp32.bin").open("r+b") as file:
        file.truncate(100)
    result = run(command, tiny)
    assert result.exit_code == 2
    assert "truncated" in result.stderr


def test_list(read_json: ReadJson) -> None:
    (window,) = read_json(run("list", "variants", "sliding_window", "--json").stdout)["variants"]
    assert window["paper"].startswith("https://")
    for verdict in window["runtimes"].values():
        assert (verdict["status"], verdict["lowering"], verdict["time"]) == ("pass", "blocked", "S W D")
    (lowering,) = read_json(run("list", "lowerings", "grouped-open", "--json").stdout)["lowerings"]
    assert lowering["runtimes"]["onnxruntime"]["grouped"]["status"] == "pass"
    assert "onnxruntime" in run("list", "runtimes").stdout
    assert "minilm" in run("list", "models").stdout
    wrong = run("list", "modells")
    assert wrong.exit_code == 2
    assert "did you mean 'models'" in wrong.stderr
    misspelt = run("list", "variants", "sliding_windw")
    assert misspelt.exit_code == 2
    assert "did you mean 'sliding_window'" in misspelt.stderr


def test_doctor(read_json: ReadJson) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert "qnn" in result.stdout
    data = read_json(run("doctor", "--json").stdout)
    assert [runtime["name"] for runtime in data["runtimes"]][:3] == ["onnxruntime", "openvino", "reference"]
    assert data["machine"]["python"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["chekc", "x"], 2, "did you mean 'check'"),
        (["zzz"], 2, "known: "),
        (["check", "absent"], 2, "not a bundle"),
        (["check", "TINY", "-r", "onnxruntim"], 2, "did you mean 'onnxruntime'"),
        (["check", "TINY", "-r", "onnxruntime:qnn"], 3, ""),
        (["run", "TINY", "-r", "onnxruntime:cuda", "--text", "x"], 2, "no tokenizer"),
        (["bench", "TINY", "--size", "batch"], 2, "expected NAME=N"),
        (["bench", "TINY", "--size", "sequence=9999"], 2, "512"),
        (["check", "TINY", "--junit", "/absent/folder/x.xml"], 2, "/absent/folder"),
    ],
)
def test_a_user_s_error_is_one_line_and_a_code(tiny: Path, arguments: list[str], code: int, message: str) -> None:
    result = run(*[str(tiny) if argument == "TINY" else argument for argument in arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [["--debug", "check", "absent"], ["check", "absent", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert type(result.exception).__name__ == "BundleError"
