"""From a lowered ONNX file to OpenVINO's own form: marks become attention, inputs and outputs of the cache become states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.exporters.sites import DOMAIN
from edgeattn.exporters.stateful.attention import MARK
from edgeattn.runtimes.base import wrap_failure
from edgeattn.runtimes.openvino_ports import cause
from edgeattn.runtimes.vendor import import_openvino


def convert(path: Path, pairs: Mapping[str, str], rows: tuple[str, int]) -> Any:
    """The model at `path` with states: `pairs` past -> present. `rows` is the input, and its axis, that has B.

    Raises:
        RuntimeRunError: OpenVINO does not know an operator of the model.
    """
    ov = import_openvino()
    from openvino._offline_transformations import apply_make_stateful_transformation
    from openvino.frontend.onnx import ConversionExtension

    core = ov.Core()
    core.add_extension(ConversionExtension(MARK, DOMAIN, _attention))
    try:
        model = core.read_model(path)
    except Exception as error:  # its exceptions share no base below Exception
        raise wrap_failure("openvino", "convert the model", cause(error)) from error
    batch = _size(model.input(rows[0]), rows[1])
    _reorder(model, pairs, batch)
    apply_make_stateful_transformation(model, dict(pairs))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([_nothing(node.get_output_partial_shape(0), batch)])
    model.validate_nodes_and_infer_types()
    return model


def variable(past: str, present: str) -> str:
    """The name that the transformation gives the state of a pair."""
    return past + present


def _attention(node: Any) -> list[Any]:
    """A mark as the subgraph that OpenVINO fuses with the cache: shared heads repeated the way PyTorch models do it."""
    from openvino import opset13 as ops

    q, k, v, mask = (node.get_input(index) for index in range(4))
    q_heads, kv_heads = node.get_attribute("q_heads"), node.get_attribute("kv_heads")
    if kv_heads < q_heads:
        k = _repeated(k, q_heads, kv_heads, node.get_attribute("k_size"))
        v = _repeated(v, q_heads, kv_heads, node.get_attribute("v_size"))
    scale = ops.constant(np.float32(node.get_attribute("scale")))
    return [ops.scaled_dot_product_attention(q, k, v, mask, scale, causal=False).output(0)]


def _repeated(heads: Any, q_heads: int, kv_heads: int, size: int) -> Any:
    """(B, K, T, D) -> (B, H, T, D): each head as often as there are queries' heads that share it."""
    from openvino import opset13 as ops

    sizes = [_size(heads, 0), _ints(kv_heads, q_heads // kv_heads), _size(heads, 2), _ints(size)]
    apart = ops.broadcast(ops.unsqueeze(heads, _ints(2)), ops.concat(sizes, 0), broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(apart, _ints(0, q_heads, -1, size), special_zero=True).output(0)


def _reorder(model: Any, pairs: Mapping[str, str], batch: Any) -> None:
    """Rows of the pasts picked in their own order: nothing changes, but without a choice of rows attention is not fused."""
    from openvino import opset13 as ops

    zero, one = ops.constant(np.int32(0)), ops.constant(np.int32(1))
    order = ops.range(zero, ops.squeeze(ops.convert(batch, "i32"), _ints(0)), one, "i32")
    for past in pairs:
        value = model.input(past)
        readers = list(value.get_target_inputs())
        picked = ops.gather(value.get_node(), order, ops.constant(np.int64(0))).output(0)
        for reader in readers:
            reader.replace_source_output(picked)


def _nothing(shape: Any, batch: Any) -> Any:
    """What a state is at first: (B, K, 0, D)."""
    from openvino import opset13 as ops

    sizes = ops.concat([batch, _ints(shape[1].get_length(), 0, shape[3].get_length())], 0)
    return ops.broadcast(ops.constant(np.float32(0)), sizes).output(0)


def _size(value: Any, axis: int) -> Any:
    """One axis of a shape, as a 1-D value."""
    from openvino import opset13 as ops

    return ops.gather(ops.shape_of(value, "i64"), _ints(axis), ops.constant(np.int64(0)))


def _ints(*values: int) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.array(values, dtype=np.int64))
