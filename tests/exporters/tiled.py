"""What the tests of forms in tiles share: random feeds, and a comparison with the formula at several lengths."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeattn.exporters.lowerings.base import Core, Lowering
from edgeattn.exporters.probing import probe_model
from edgeattn.naive import softmax_attention
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.spec import AttentionSpec, Pattern, SoftmaxAttention

RUNTIMES = ("onnxruntime", "openvino")
HEADS, SIZE = 4, 8


def specs(patterns: st.SearchStrategy[Any], masks: Sequence[str] = ("none", "key_padding", "document")) -> Any:
    """Specs of 4 heads in every grouping, with every mask and a sink."""
    return st.builds(
        SoftmaxAttention,
        q_heads=st.just(HEADS),
        kv_heads=st.sampled_from([1, 2, 4]),
        head_dim=st.just(SIZE),
        value_head_dim=st.sampled_from([8, 5]),
        pattern=patterns,
        softcap=st.sampled_from([None, 5.0]),
        mask=st.sampled_from(masks),
        sink=st.booleans(),
    )


def plain(pattern: Pattern, **fields: Any) -> AttentionSpec:
    """4 query heads over 2 key heads."""
    return SoftmaxAttention(HEADS, 2, SIZE, pattern=pattern, **fields)


def slow(*values: object) -> Any:
    """A case that plain `pytest` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def feeds(spec: AttentionSpec, batch: int, length: int) -> dict[str, NDArray[Any]]:
    """Scores of some size; padding with holes, half of the last row hidden; documents with padding between them."""
    rng = np.random.default_rng(length)
    values: dict[str, NDArray[Any]] = {
        "q": 3 * rng.standard_normal((batch, HEADS, length, SIZE)),
        "k": rng.standard_normal((batch, spec.kv_heads, length, SIZE)),
        "v": rng.standard_normal((batch, spec.kv_heads, length, spec.value_head_dim)),
    }
    if spec.sink:
        values["sink"] = rng.standard_normal(HEADS)
    values = {name: value.astype(np.float32) for name, value in values.items()}
    if spec.mask == "key_padding":
        values["mask"] = rng.random((batch, length)) < 0.7
        values["mask"][-1, : length // 2] = False
    if spec.mask == "document":
        values["mask"] = rng.integers(-1, 3, (batch, length))
    return values


def check(
    lowering: Lowering, spec: AttentionSpec, runtime: str, lengths: Sequence[int], batch: int, max_keys: int | None = None
) -> None:
    """Several lengths in one session: a form that kept anything of the first would fail on the next."""
    core = Core(spec, square=True, max_keys=max_keys)
    assert lowering.accepts(core) is None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(probe_model(lowering, core), path)
        with registry.get(runtime).load(path, LoadOptions(spin=False)) as session:
            for length in lengths:
                values = feeds(spec, batch, length)
                got = session.run(values)[session.outputs[0].name]
                np.testing.assert_allclose(got, softmax_attention(**values, spec=spec), rtol=0, atol=2e-5)
