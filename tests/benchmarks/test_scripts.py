"""The scripts of benchmarks/ start, and those about decoding measure what they say, on a small model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.edgeattn.decoding.small import export_small

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "argparse.ArgumentParser(" in path.read_text())


def run(script: str, *arguments: str) -> str:
    """What a script prints."""
    done = subprocess.run([sys.executable, str(FOLDER / script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of two layers, 2 x 2 x 2 cached vectors of 8 float32 for each position."""
    return export_small(tmp_path_factory.mktemp("decoder")).bundle


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_does(script: str) -> None:
    first = (FOLDER / script).read_text().removeprefix('"""').splitlines()[0]
    assert first in run(script, "--help")


@pytest.mark.parametrize(
    "path", [path for path in FOLDER.glob("*.py") if "import calm" in path.read_text()], ids=lambda p: p.stem
)
def test_workers_are_calmed_before_anything_loads_them(path: Path) -> None:
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert next(name for name in names if name.split(".")[0] not in sys.stdlib_module_names) == "calm"


def test_decoding_measures_ours_and_its_limit_in_the_same_rounds(small_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "decoding.json"
    sizes = ["--prompt", "16", "--past", "7", "--past", "33", "--turns", "5", "--in-a-row", "3", "--repeats", "2"]
    printed = run("decoding.py", str(small_bundle), "-r", "onnxruntime", *sizes, "--json", str(report))
    found = json.loads(report.read_text())
    ours, limit = found["rows"]
    assert ours["candidate"] == "edgeattn on onnxruntime"
    assert ours["wrong"] == ""
    assert limit["candidate"] == "bare MatMuls on onnxruntime"
    assert list(ours["cases"]) == ["prompt of 16", "behind 7", "behind 33"]
    assert list(limit["cases"]) == ["behind 7", "behind 33"]
    assert [case["runs"] for case in ours["cases"].values()] == [4, 10, 10]  # the candidates are loaded in two orders
    assert ours["cache_bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    assert ours["memory"]["base_mb"] < ours["memory"]["prompt_mb"] <= ours["memory"]["longest_mb"]
    assert {(ratio["case"], ratio["peer"]) for ratio in found["ratios"]} == {
        (case, limit["candidate"]) for case in limit["cases"]
    }
    assert "behind 33, tok/s" in printed


def test_memory_curve_follows_the_cache(small_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "curve.json"
    run("memory_curve.py", str(small_bundle), "-r", "onnxruntime", "--tokens", "60", "--every", "20", "--json", str(report))
    (row,) = json.loads(report.read_text())["rows"]
    assert [point["tokens"] for point in row["points"]] == [0, 20, 40, 60]
    assert [point["cache_mb"] for point in row["points"]] == pytest.approx([256e-6 * count for count in (16, 36, 56, 76)])
    assert all(point["resident_mb"] > 10 for point in row["points"])


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the folder, which is on the path for scripts alone."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def test_slope_is_of_what_is_not_the_cache(module: Any) -> None:
    """The cache takes 3 MB for 100 tokens; beside it come 50 MB at the beginning, then 1 MB for 100 tokens."""
    rest = [0.0, 50.0, 51.0, 52.0, 53.0]
    points = [
        {"tokens": 100 * i, "resident_mb": 200 + 5 * i + rest[i], "files_mb": 2 * i, "cache_mb": 7 + 3 * i} for i in range(5)
    ]
    curve = module("memory_curve")
    assert curve.residuals(points) == pytest.approx(rest)
    assert curve.slope(points) == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Ada''' is a [[programming language|language]] of [[1980]].", "Ada is a language of 1980."),
        ("{{Infobox|a={{b|{{c}}}}\n|d}}Kept<ref name=x>not {{this}}</ref><ref name=x/>, too.", "Kept, too."),
        ("== Form ==\n* one\n** [http://a.b two]\n{| class=x\n|-\n| {| inner |} cell\n|}\nend", "Form\none\ntwo\nend"),
        ("[[File:a.png|thumb|A [[cat|big cat]] here]]Text [[de:Katze]]&amp;lt; ({{lang|x}}) end", "Text < end"),
        ("Said.\n==References==\n{{reflist}}\n==External links==\n* [http://a.b]", "Said."),
        ("<!-- a\nb -->One<br />two <math>x^2</math>three", "Onetwo three"),
    ],
)
def test_markup_is_taken_off(module: Any, markup: str, text: str) -> None:
    assert module("wikipedia").plain(markup) == text


def test_perplexity_is_that_of_the_probabilities(module: Any) -> None:
    """Each next token has probability 1/4, whatever is added to all scores; the first token is not scored."""
    import numpy as np

    def logits(ids: Any) -> Any:
        scores = np.zeros((len(ids), 4), dtype=np.float32)
        return scores + np.arange(len(ids), dtype=np.float32)[:, None]

    perplexity = module("perplexity").perplexity
    assert perplexity(logits, [np.array([0, 1, 2]), np.array([3, 3, 3, 3])]) == pytest.approx(4.0)

    def knows(ids: Any) -> Any:
        """Half of the tokens for certain, the others with 1/4: sqrt(4) in the mean."""
        scores = logits(ids)
        scores[0, ids[1]] += 100
        return scores

    assert perplexity(knows, [np.array([0, 1, 2])]) == pytest.approx(2.0)
