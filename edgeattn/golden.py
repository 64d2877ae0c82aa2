"""Golden cases: inputs and the PyTorch model's outputs, kept in the bundle so that parity can be proven on the device.

A file holds `in.<name>` and `out.<name>`; an output of more than LIMIT elements is stored as every stride-th element of
its flattened form, with its full shape in `shape.<name>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle
from edgeattn.errors import BundleError
from edgeattn.manifest import GoldenCase, OutputInfo, TensorInfo
from edgeattn.padding import valid_positions
from edgeattn.parity import Comparison, Mask, compare_outputs, spread
from edgeattn.tensors import read_tensors, write_tensors

Array = NDArray[Any]

LIMIT = 32768
"""Outputs of more elements than this are sampled."""


@dataclass(frozen=True, slots=True)
class Golden:
    """One case as read: `outputs` are flat samples for the names in `strides`, whole arrays otherwise."""

    name: str
    sizes: dict[str, int]
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    strides: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


def write_case(
    folder: Path, name: str, sizes: dict[str, int], inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> GoldenCase:
    """Write `golden/<name>.safetensors` in the bundle folder and return its manifest entry."""
    tensors = {f"in.{key}": np.asarray(value) for key, value in inputs.items()}
    strides: dict[str, int] = {}
    for key, value in outputs.items():
        array = np.asarray(value)
        if array.size > LIMIT:
            strides[key] = stride_for(array.shape)
            tensors[f"shape.{key}"] = np.array(array.shape, dtype=np.int64)
            array = array.reshape(-1)[:: strides[key]]
        tensors[f"out.{key}"] = array
    path = folder / "golden" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors)
    return GoldenCase(f"golden/{name}.safetensors", dict(sizes), strides)


def read_case(bundle: Bundle, case: GoldenCase, names: tuple[Sequence[str], Sequence[str]] | None = None) -> Golden:
    """The arrays of a case, writable and aligned; `names` of its inputs and outputs are those of the manifest by default.

    Raises:
        BundleError: the file is malformed, or lacks one of them.
    """
    tensors = read_tensors(bundle.file(case.file))
    given, expected = names or tuple(
        [info.name for info in infos] for infos in (bundle.manifest.inputs, bundle.manifest.outputs)
    )
    inputs = {name: _take(tensors, "in", name, case.file) for name in given}
    outputs = {name: _take(tensors, "out", name, case.file) for name in expected}
    strides = {name: stride for name, stride in case.strides.items() if name in outputs}
    shapes = {}
    for name, array in outputs.items():
        shapes[name] = array.shape
        if name in strides:
            shapes[name] = tuple(int(n) for n in _take(tensors, "shape", name, case.file).reshape(-1))
            _check_sample(case.file, name, array, shapes[name], strides[name])
    return Golden(PurePosixPath(case.file).stem, dict(case.sizes), inputs, outputs, strides, shapes)


def compare_case(
    golden: Golden, got: Mapping[str, Array], outputs: Sequence[OutputInfo], padding: TensorInfo | None = None
) -> tuple[Comparison, ...]:
    """Compare a runtime's whole outputs with a case; `padding` is the input that marks real positions, if there is one."""
    sampled: dict[str, Array] = dict(got)
    valid: dict[str, Mask | None] = {}
    for info in outputs:
        valid[info.name] = valid_positions(info, padding, golden.inputs)
        if info.name in golden.strides and info.name in got:
            _sample(golden, info.name, sampled, valid)
    return compare_outputs(sampled, golden.outputs, outputs, valid)


def stride_for(shape: tuple[int, ...]) -> int:
    """The smallest stride that leaves at most LIMIT elements and is coprime with the last axis, so that no column is missed."""
    stride = max(1, math.ceil(math.prod(shape) / LIMIT))
    while math.gcd(stride, shape[-1]) != 1:
        stride += 1
    return stride


def _sample(golden: Golden, name: str, got: dict[str, Array], valid: dict[str, Mask | None]) -> None:
    """Replace a whole output, and its mask, by their samples; an output of another shape stays whole and so fails."""
    if np.shape(got[name]) != golden.shapes[name]:
        return
    stride = golden.strides[name]
    got[name] = np.asarray(got[name]).reshape(-1)[::stride]
    mask = valid[name]
    if mask is not None:
        valid[name] = spread(mask, golden.shapes[name]).reshape(-1)[::stride]


def _take(tensors: Mapping[str, Array], part: str, name: str, file: str) -> Array:
    key = f"{part}.{name}"
    if key not in tensors:
        raise BundleError(f"{file}: holds no {key!r}; it has: {', '.join(tensors) or 'nothing'}; export the model again")
    return np.array(tensors[key])


def _check_sample(file: str, name: str, sample: Array, shape: tuple[int, ...], stride: int) -> None:
    if stride < 1 or min(shape, default=1) < 0 or sample.shape != (math.ceil(math.prod(shape) / stride),):
        raise BundleError(
            f"{file}: {sample.shape} samples of {name!r} do not fit shape {shape} at stride {stride}; export the model again"
        )
