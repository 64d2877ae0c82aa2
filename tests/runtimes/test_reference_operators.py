"""Operators that the reference runtime runs in place of onnx's own evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeattn.runtimes import registry

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[a, b] x, int64[c, d] i) => (float[c, d] y) { y = GatherElements <axis = AXIS> (x, i) }
"""


@pytest.mark.parametrize(("axis", "shape", "index"), [(1, (1, 64), (1, 7)), (0, (64, 3), (5, 3)), (-1, (2, 40), (2, 9))])
def test_gather_elements_takes_every_index(axis: int, shape: tuple[int, int], index: tuple[int, int], tmp_path: Path) -> None:
    """More entries than numpy.choose has room for."""
    onnx.save(onnx.parser.parse_model(TEXT.replace("AXIS", str(axis))), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {
        "x": rng.standard_normal(shape, dtype=np.float32),
        "i": rng.integers(-shape[axis], shape[axis], index),
    }
    found = {}
    for name in ("reference", "onnxruntime"):
        with registry.get(name).load(tmp_path / "model.onnx") as session:
            found[name] = session.run(feeds)["y"]
    np.testing.assert_array_equal(found["reference"], found["onnxruntime"])
