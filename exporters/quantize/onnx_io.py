"""ONNX models as the quantizers pass them on: copied whole, written with their numbers beside them."""

from __future__ import annotations

from pathlib import Path

import onnx

_INLINE = 1024
"""Bytes of a tensor below which it stays in the model's own file."""


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """All of it, weights included."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def write(model: onnx.ModelProto, path: Path, weights: str) -> None:
    """Save; numbers go to the file `weights` beside it, which must not be there."""
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=weights, size_threshold=_INLINE
    )
    numbers = path.parent / weights
    if numbers.exists():
        numbers.chmod(path.stat().st_mode)  # it is made for its owner alone


def domains(model: onnx.ModelProto) -> dict[str, int]:
    """As a manifest has them."""
    return {entry.domain: entry.version for entry in model.opset_import}
