"""A runtime that is wrong outside attention is named with the node, and the other runtimes keep their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import edgeattn
from edgeattn.checking import check
from edgeattn.exporters.export import ExportFailedError
from edgeattn.exporters.locating import Run, first_difference
from edgeattn.runtimes import registry

RUNTIMES = ("onnxruntime:cpu", "openvino:cpu")


class MaximumOfNothing(nn.Module):
    """Beside its attention it looks for rows whose maximum is -inf, which OpenVINO gives as the lowest finite number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> dict[str, torch.Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        top = attended.masked_fill(~keep[:, :, None], float("-inf")).amax(-1, keepdim=True)
        return {"attended": attended, "top": torch.where(top == float("-inf"), torch.zeros_like(top), top)}


def _export(output: Path, **options: Any) -> Any:
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[0, 3:] = False
    axes = {0: "batch", 1: "sequence"}
    return edgeattn.export(
        MaximumOfNothing(),
        {"x": torch.randn(2, 5, 8), "keep": keep},
        output=output,
        runtimes=RUNTIMES,
        dynamic={"x": axes, "keep": axes},
        **options,
    )


def test_the_runtime_and_the_node_are_named_and_the_other_runtime_has_its_result(tmp_path: Path) -> None:
    with pytest.raises(ExportFailedError) as caught:
        _export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    rows = {row.flavour.target: row for row in caught.value.report.flavours}
    assert [target for target, row in rows.items() if row.failure] == ["openvino:cpu"]
    assert rows["openvino:cpu"].failure.startswith("top at batch")
    assert "first at amax, from node" in rows["openvino:cpu"].failure
    assert "(ReduceMax)" in rows["openvino:cpu"].failure
    parity = rows["onnxruntime:cpu"].flavour.parity
    assert parity is not None
    assert (parity.passed, parity.cases) == (True, 15)


def test_a_kept_bundle_is_checked_runtime_by_runtime(tmp_path: Path) -> None:
    _export(tmp_path / "out", keep_failed=True)
    report = check(tmp_path / "out", RUNTIMES)
    assert [(target.target, target.status) for target in report.targets] == [
        ("onnxruntime:cpu", "passed"),
        ("openvino:cpu", "failed"),
    ]
    failed = {row.output for case in report.targets[1].cases for row in case.comparisons if not row.passed}
    assert failed == {"top"}
    assert report.exit_code == 1


def _runs(bundle: Path, suspect: Path) -> tuple[Run, Run, dict[str, Any]]:
    onnxruntime = registry.get("onnxruntime")
    feeds = {"input_ids": np.arange(10).reshape(2, 5), "attention_mask": np.ones((2, 5), dtype=np.int64)}
    return Run(suspect, onnxruntime, "cpu"), Run(bundle / "portable.onnx", onnxruntime, "cpu"), feeds


def test_the_node_whose_weight_was_changed(tiny_bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle / "onnxruntime-cpu.onnx")  # with its weights
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "out.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    suspect, trusted, feeds = _runs(tiny_bundle, tmp_path / "changed.onnx")
    place = first_difference(suspect, trusted, feeds)
    assert place.startswith("first at ")
    assert "of out: max error 1" in place
    assert [path.name for path in tmp_path.iterdir()] == ["changed.onnx"]


def test_equal_forms_differ_nowhere(tiny_bundle: Path) -> None:
    suspect, trusted, feeds = _runs(tiny_bundle, tiny_bundle / "onnxruntime-cpu.onnx")
    assert "no value inside differs" in first_difference(suspect, trusted, feeds)


def test_a_form_that_cannot_be_run(tiny_bundle: Path) -> None:
    suspect, trusted, feeds = _runs(tiny_bundle, tiny_bundle / "onnxruntime-cpu.onnx")
    assert first_difference(suspect, trusted, {"input_ids": feeds["input_ids"]}).startswith("it could not be located: ")
