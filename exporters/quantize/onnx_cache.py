"""A decoder's cache in int8, as ONNX Runtime's GroupQueryAttention keeps it: a scale for each channel of a head, found beforehand.

Keys of one head differ by orders of magnitude from channel to channel, and little from token to token (Liu et al. 2024, KIVI,
https://arxiv.org/abs/2402.02750): one scale for a channel holds for every token that comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeattn.exporters.quantize.observing import Feeds, observed
from edgeattn.runtimes.ort_small_cache import SCALES, Scales

_PAST, _PRESENT, _SCALE = 3, 1, 12
"""Places of keys among the operator's inputs, its outputs, and of their scale; those of values follow."""
_LEAST = 1e-8


def peaks(model: onnx.ModelProto, samples: Iterable[Feeds]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of each head, (K, D), over `samples`, by the name of the present that holds it."""
    names = [node.output[_PRESENT + part] for node in _attention(model) for part in (0, 1)]
    found: dict[str, NDArray[np.float32]] = {}
    for arrays in observed(model, names, samples):
        for name, array in arrays.items():
            peak = np.abs(array).max(axis=(0, 2))
            found[name] = np.maximum(found[name], peak) if name in found else peak
    return found


def keep_in_int8(model: onnx.ModelProto, largest: Mapping[str, NDArray[np.float32]]) -> None:
    """In place: pasts and presents are int8, and the file says what one of them stands for."""
    ports = {port.name: port for port in (*model.graph.input, *model.graph.output)}
    scales: dict[str, NDArray[np.float32]] = {}
    for node in _attention(model):
        node.input.extend([""] * (_SCALE + 2 - len(node.input)))
        for part in (0, 1):
            past, present = node.input[_PAST + part], node.output[_PRESENT + part]
            scale = np.asarray(np.maximum(largest[present], _LEAST) / 127, dtype=np.float32)
            node.input[_SCALE + part] = f"{past}.scale"
            model.graph.initializer.append(numpy_helper.from_array(scale[None, :, None], f"{past}.scale"))
            scales[past] = scales[present] = scale
            for name in (past, present):
                ports[name].type.tensor_type.elem_type = onnx.TensorProto.INT8
        node.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in (("k_quant_type", "PER_CHANNEL"), ("v_quant_type", "PER_CHANNEL"), ("kv_cache_bit_width", 8))
        )
    helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, SCALES: Scales(scales).dumps()})


def _attention(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "GroupQueryAttention" and node.input[_PAST]]
