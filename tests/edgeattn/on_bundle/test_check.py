"""The gate, on real runtimes: what must stop a model, and what must not."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.checking import check, default_targets
from edgeattn.errors import BundleError, UsageError
from edgeattn.junit import write_junit

Make = dict[str, Callable[..., Any]]


def test_every_flavour_passes(tiny: Path) -> None:
    report = edgeattn.check(tiny)
    assert report.passed
    assert report.exit_code == 0
    assert [target.target for target in report.targets] == ["onnxruntime:cpu", "openvino:cpu"]
    for target in report.targets:
        assert len(target.cases) == 3
        assert all(len(case.comparisons) == 2 for case in target.cases)
        assert target.worst()["sentence_embedding"] < 1e-6
        assert "thread" in target.effective


def test_the_reference_runs_the_canonical_flavour(tiny: Path) -> None:
    (target,) = check(tiny, ["reference"]).targets
    assert target.passed
    assert target.flavour == "canonical"


def test_a_runtime_without_a_flavour_uses_the_portable_one_and_says_so(tmp_path: Path, make: Make) -> None:
    bundle = make["bundle"](tmp_path / "b", targets=("onnxruntime:cpu", "portable"))
    (target,) = check(bundle, ["openvino:cpu"]).targets
    assert target.passed
    assert target.flavour == "portable"


def test_no_flavour_at_all_is_an_error_of_that_target_only(tmp_path: Path, make: Make) -> None:
    bundle = make["bundle"](tmp_path / "b", targets=("onnxruntime:cpu",))
    report = check(bundle, ["openvino:cpu", "onnxruntime:cpu"])
    assert [target.status for target in report.targets] == ["error", "passed"]
    assert not report.passed
    assert report.exit_code == 1
    assert "-r openvino:cpu" in report.targets[0].reason


def test_an_edited_weight_is_refused_by_its_hash(tiny: Path, make: Make) -> None:
    make["scale_weight"](tiny, 10)
    with pytest.raises(BundleError, match="SHA-256"):
        check(tiny)


def test_an_edited_and_rehashed_weight_fails_parity(tiny: Path, make: Make) -> None:
    make["scale_weight"](tiny, 10)
    make["reseal"](tiny)
    report = check(tiny)
    assert report.exit_code == 1
    assert {target.status for target in report.targets} == {"failed"}
    assert all(not case.passed for target in report.targets for case in target.cases)


def test_a_model_that_ignores_padding_fails_where_there_is_padding(tmp_path: Path, make: Make) -> None:
    """Only the padded case can show it: without a padded row in the golden cases this bundle would pass."""
    report = check(make["bundle"](tmp_path / "b", masked=False))
    for target in report.targets:
        assert [case.passed for case in target.cases] == [True, True, False]


def test_swapped_outputs_fail(tiny: Path, make: Make) -> None:
    model = onnx.load(tiny / "model.onnx", load_external_data=False)
    names = {"last_hidden_state": "sentence_embedding", "sentence_embedding": "last_hidden_state"}
    for value in model.graph.output:
        value.name = names[value.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    (tiny / "model.onnx").write_bytes(model.SerializeToString())
    make["reseal"](tiny)
    report = check(tiny)
    assert report.exit_code == 1
    assert "shape" in report.targets[0].cases[2].comparisons[0].reason


def test_a_model_that_does_not_load_fails_and_the_others_go_on(tiny: Path, make: Make) -> None:
    (tiny / "broken.onnx").write_bytes(b"not a model")
    manifest = make["manifest"](tiny)
    broken = replace(manifest.flavours[0], file="broken.onnx")
    make["reseal"](tiny, flavours=(broken, *manifest.flavours[1:]))
    report = check(tiny)
    assert [target.status for target in report.targets] == ["error", "passed"]
    assert report.exit_code == 1


def test_a_bundle_without_golden_cases_has_not_passed(tiny: Path, make: Make) -> None:
    make["reseal"](tiny, golden=())
    with pytest.raises(UsageError, match="nothing can be compared"):
        check(tiny)


def test_a_missing_device_is_an_error_when_asked_for(tiny: Path) -> None:
    report = check(tiny, ["onnxruntime:qnn", "onnxruntime:cpu"])
    assert [target.status for target in report.targets] == ["missing", "passed"]
    assert report.exit_code == 3
    assert "does not fall back" in report.targets[0].reason


def test_a_missing_device_is_skipped_when_nobody_asked_but_never_all_of_them(tiny: Path, make: Make) -> None:
    manifest = make["manifest"](tiny)
    elsewhere = replace(manifest.flavours[0], target="onnxruntime:qnn")
    make["reseal"](tiny, flavours=(elsewhere, *manifest.flavours))
    report = check(tiny)
    assert [target.status for target in report.targets] == ["skipped", "passed", "passed"]
    assert report.passed
    make["reseal"](tiny, flavours=(elsewhere,))
    alone = check(tiny)
    assert not alone.passed
    assert alone.exit_code == 3


def test_a_flavour_of_a_plug_in_that_is_not_installed_is_skipped(tiny: Path, make: Make) -> None:
    manifest = make["manifest"](tiny)
    make["reseal"](tiny, flavours=(replace(manifest.flavours[0], target="accelerator:npu"), *manifest.flavours))
    report = check(tiny)
    assert [target.status for target in report.targets] == ["skipped", "passed", "passed"]
    assert "install that plug-in" in report.targets[0].reason
    assert report.passed


@pytest.mark.parametrize("target", ["onxruntime", "onnxruntime:gpu", "onnxruntime:cppu"])
def test_unknown_names_are_answered_with_the_nearest(tiny: Path, target: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean|known:"):
        check(tiny, [target])


def test_default_targets_of_a_portable_bundle(tmp_path: Path, make: Make) -> None:
    bundle = make["bundle"](tmp_path / "b", targets=("portable", "canonical"))
    assert default_targets(make["manifest"](bundle)) == ["onnxruntime:cpu"]
    assert check(bundle).targets[0].flavour == "portable"


def test_junit_says_what_the_report_says(tmp_path: Path, make: Make) -> None:
    report = check(make["bundle"](tmp_path / "b", masked=False), ["onnxruntime:cpu", "onnxruntime:qnn"])
    write_junit(report, tmp_path / "out.xml")
    suites = ET.parse(tmp_path / "out.xml").getroot().findall("testsuite")
    assert [(s.get("name"), s.get("tests"), s.get("failures"), s.get("errors")) for s in suites] == [
        ("onnxruntime:cpu", "3", "1", "0"),
        ("onnxruntime:qnn", "1", "0", "1"),
    ]
    failure = suites[0].findall("testcase")[2].find("failure")
    assert failure is not None
    assert "last_hidden_state" in str(failure.get("message"))


def test_the_json_of_a_failed_report_has_no_nan(tiny: Path, make: Make, read_json: Callable[[str], Any]) -> None:
    make["scale_weight"](tiny, np.nan)
    make["reseal"](tiny)
    data = read_json(json.dumps(check(tiny).to_dict(), allow_nan=False))
    assert data["passed"] is False
