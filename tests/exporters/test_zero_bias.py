"""A bias of zeros leaves the spec, whichever way the graph makes it; any other stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.passes.zero_bias import without_zero_bias
from edgeattn.spec import SoftmaxAttention

BIASED = SoftmaxAttention(2, 2, 4, mask="key_padding", bias=True, sink=True)
Q, K, V, MASK, SINK = (ir.val(name) for name in ("q", "k", "v", "mask", "sink"))


def _constant(array: np.ndarray) -> ir.Value:
    value = ir.val("constant")
    value.const_value = ir.tensor(array)
    return value


def _biases() -> dict[str, tuple[ir.Value, bool]]:
    """How a bias is made -> the value, and whether it is zeros."""
    b, shape = Builder(), ir.val("shape")
    zeros, one = _constant(np.zeros((1, 2), np.float32)), _constant(np.array([[0, 0, 1e-30]], np.float32))
    return {
        "a constant": (zeros, True),
        "another constant": (one, False),
        "stretched": (b.op("Expand", b.op("Unsqueeze", zeros, b.ints(0)), shape), True),
        "another stretched": (b.op("Expand", one, shape), False),
        "a fill": (b.op("ConstantOfShape", shape), True),
        "a fill of 0": (b.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, np.float32))), True),
        "a fill of 1": (b.op("ConstantOfShape", shape, value=ir.tensor(np.ones(1, np.float32))), False),
        "a sum": (b.op("Add", zeros, zeros), False),
        "an input": (ir.val("bias"), False),
    }


@pytest.mark.parametrize("made", list(_biases()))
def test_a_bias_that_is_known_to_be_zeros_goes(made: str) -> None:
    bias, zeros = _biases()[made]
    spec, inputs = without_zero_bias(BIASED, [Q, K, V, MASK, bias, SINK])
    if zeros:
        assert spec == SoftmaxAttention(2, 2, 4, mask="key_padding", sink=True)
        assert list(inputs) == [Q, K, V, MASK, SINK]
    else:
        assert (spec, list(inputs)) == (BIASED, [Q, K, V, MASK, bias, SINK])


def test_absent_inputs_do_not_shift_the_places() -> None:
    spec = SoftmaxAttention(2, 2, 4, bias=True)
    bias = _constant(np.zeros((1, 1, 1, 1), np.float32))
    made, inputs = without_zero_bias(spec, [Q, K, V, None, bias])
    assert made == SoftmaxAttention(2, 2, 4)
    assert list(inputs) == [Q, K, V]
    plain = SoftmaxAttention(2, 2, 4)
    assert without_zero_bias(plain, [Q, K, V]) == (plain, [Q, K, V])
