"""The weight file of a bundle: large tensors of its models, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path

import onnx_ir as ir

_INLINE = 1024
"""Bytes up to which a tensor stays in its graph; larger ones go to the shared weight file."""


def store_weights(models: Sequence[ir.Model], folder: Path, name: str) -> None:
    """Move the large tensors of `models` to the file `name`; what several models have, such as an embedding, they share."""
    values = [value for model in models for graph in model.graphs() for value in graph.initializers.values()]
    held = [value for value in values if value.const_value is not None]
    keys = [_key(value.const_value, alone=len(models) == 1) for value in held if value.const_value is not None]
    kept = {
        key: ir.Value(name=f"weight_{i}", const_value=value.const_value)
        for i, (key, value) in enumerate(zip(keys, held, strict=True))
    }
    store = ir.Model(ir.Graph((), (), nodes=(), initializers=list(kept.values())), ir_version=10)
    ir.external_data.unload_from_model(store, folder, name, size_threshold_bytes=_INLINE)
    for key, value in zip(keys, held, strict=True):
        value.const_value = kept[key].const_value


def _key(tensor: ir.TensorProtocol, alone: bool) -> Hashable:
    """Equal for equal tensors of several models; within one model they are one already."""
    if alone or tensor.nbytes <= _INLINE:
        return id(tensor)
    return tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest()
