"""`--static-shapes`: which sizes were asked for, and what PyTorch says at exactly these and at those padded up to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgeattn.buckets import cut, fits, pad, smallest
from edgeattn.errors import UsageError
from edgeattn.exporters.reference_run import Arrays, ReferenceCase, case_name, check_repeatable, run_case
from edgeattn.exporters.sources.base import Dimension, Source
from edgeattn.manifest import PAST, OutputInfo, TensorInfo, describe_sizes
from edgeattn.padding import valid_positions
from edgeattn.parity import compare_outputs, passed

Shapes = Sequence[Mapping[str, int]]
_DRAWS = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """Fixed sizes, none for a model that takes any, with what PyTorch says there. A case may be smaller than the sizes:
    it is padded up to them."""

    sizes: dict[str, int]
    cases: list[ReferenceCase]

    def padded(self, inputs: Sequence[TensorInfo], padding: TensorInfo | None) -> list[ReferenceCase]:
        """The cases with inputs of exactly the sizes; `sizes` and `outputs` of a case stay its own."""
        return [replace(case, inputs=pad(case.inputs, inputs, self.sizes, padding)) for case in self.cases]


def check_shapes(shapes: Shapes, dimensions: Mapping[str, Dimension]) -> list[dict[str, int]]:
    """The buckets that were asked for, each in the order of `dimensions`.

    Raises:
        UsageError: the model has no dynamic dimension, or a bucket names another one, leaves one out, goes beyond what a
            dimension is declared for, or comes twice.
    """
    if not dimensions:
        raise UsageError("every size of this model is fixed already; leave --static-shapes out")
    buckets: list[dict[str, int]] = []
    for shape in shapes:
        _check_names(shape, dimensions)
        bucket = {name: check_size(shape, dimension) for name, dimension in dimensions.items()}
        if bucket in buckets:
            raise UsageError(f"--static-shapes {describe_sizes(bucket)} is given twice; give each choice of sizes once")
        buckets.append(bucket)
    return buckets


def _check_names(shape: Mapping[str, int], dimensions: Mapping[str, Dimension]) -> None:
    known = ", ".join(f"{name} ({_bounds(dimension)})" for name, dimension in dimensions.items())
    if extra := [name for name in shape if name not in dimensions]:
        raise UsageError(f"--static-shapes: the model has no dynamic dimension {extra[0]!r}; it has: {known}")
    if missing := [name for name in dimensions if name not in shape]:
        raise UsageError(
            f"--static-shapes {describe_sizes(shape)} leaves out {', '.join(missing)}; give a size for each of: {known}"
        )


def check_size(shape: Mapping[str, int], dimension: Dimension, option: str = "--static-shapes") -> int:
    """The size that `shape` gives `dimension`. Raises UsageError for one that it cannot have."""
    size = shape[dimension.name]
    if not isinstance(size, int) or isinstance(size, bool) or dimension.bounded(size) != size:
        raise UsageError(f"{option} {dimension.name}={size}: expected a whole number, {_bounds(dimension)}")
    return size


def _bounds(dimension: Dimension) -> str:
    return f"{dimension.least} or more" if dimension.limit is None else f"{dimension.least} to {dimension.limit}"


def exact_cases(source: Source, buckets: Sequence[dict[str, int]]) -> list[Bucket]:
    """Each bucket with the untouched module's outputs at its sizes: nothing padded, and padded rows, where there is a mask.

    Raises:
        SourceError: the model fails at these sizes, or gives other results when run twice.
    """
    exact = [
        Bucket(all_sizes(source, sizes), [_exact_case(source, sizes, draw) for draw in range(_DRAWS)]) for sizes in buckets
    ]
    check_repeatable(source, [case for bucket in exact for case in bucket.cases])
    return exact


def all_sizes(source: Source, sizes: Mapping[str, int]) -> dict[str, int]:
    """`sizes`, and those that inputs of these sizes have where a dimension follows from others."""
    inputs = source.sample(sizes, torch.Generator().manual_seed(0))
    found = {name: int(inputs[key].shape[axis]) for key, axes in source.dynamic.items() for axis, name in axes.items()}
    return {**sizes, **found}


def _exact_case(source: Source, sizes: dict[str, int], draw: int) -> ReferenceCase:
    inputs = source.sample(sizes, torch.Generator().manual_seed(1000 + draw))
    name = f"{case_name(sizes, draw)}-{draw}"
    if source.padding is not None:
        mask = inputs[source.padding]
        name = f"{case_name(sizes, draw)}-{('full', 'padded', 'short')[draw]}"
        kept = _mask(mask, draw, _least(source))
        # behind a cache the new tokens stand at the end: padded, they would leave nothing to compare
        inputs[source.padding] = kept.flip(1) if PAST in source.dimensions else kept
    return run_case(source, name, sizes, inputs)


def _mask(like: torch.Tensor, draw: int, least: int) -> torch.Tensor:
    """(B, T): all real; row r of B with (r + 1) / (B + 1) of T real; the shortest row there is."""
    batch, length = like.shape
    mask = torch.ones_like(like)
    for row in range(batch):
        kept = (length, length * (row + 1) // (batch + 1), 1)[draw]
        mask[row, max(least, kept) :] = 0
    return mask


def _least(source: Source) -> int:
    name = source.dynamic.get(source.padding or "", {}).get(1, "")
    return source.dimensions[name].least if name in source.dimensions else 1


def add_smaller_cases(
    source: Source, buckets: Sequence[Bucket], inputs: Sequence[TensorInfo], outputs: Sequence[OutputInfo]
) -> tuple[tuple[str, ...], str]:
    """Cases of sizes between the buckets, added to the bucket that takes each.

    Returns the dimensions in which feeds may be padded up: those of the padding mask, if PyTorch itself says that padding
    changes no result. Where it does, no case is added and the second value says which output changes.
    """
    padding = next((info for info in inputs if info.name == source.padding), None)
    pads = tuple(dim for dim in (padding.dims if padding else ()) if isinstance(dim, str))
    if padding is None or not pads:
        return (), "the model has no padding mask"
    if derived := [name for name in pads if name not in source.dimensions]:
        return (), f"the size {derived[0]} of its padding mask follows from others"
    if mixed := [info.name for info in outputs if _mixes(info, pads)]:
        return (), f"a size of output {mixed[0]!r} is computed from {' and '.join(pads)}"
    added: list[tuple[int, ReferenceCase]] = []
    for sizes in _between([bucket.sizes for bucket in buckets], pads, source.dimensions):
        index = smallest([bucket.sizes for bucket in buckets], sizes, pads)
        assert index is not None
        case = run_case(source, case_name(sizes, 0), sizes, _all_real(source, sizes))
        if changed := _changed_by_padding(source, case, buckets[index].sizes, inputs, outputs, padding):
            return (), f"in PyTorch itself, output {changed!r} changes when {describe_sizes(sizes)} is padded"
        added.append((index, case))
    for index, case in added:
        buckets[index].cases.append(case)
    return pads, ""


def _mixes(info: TensorInfo, pads: Sequence[str]) -> bool:
    """Whether a dimension is neither fixed nor a plain symbol, so that nobody knows where to cut."""
    return any(isinstance(dim, str) and not dim.isidentifier() and any(name in dim for name in pads) for dim in info.dims)


def _between(
    buckets: Sequence[dict[str, int]], pads: Sequence[str], dimensions: Mapping[str, Dimension]
) -> list[dict[str, int]]:
    """For each bucket sizes a third below it, and just below it, as far as it is the one that takes them; and the least."""
    chosen: list[dict[str, int]] = []
    for index, bucket in enumerate(buckets):
        for less in (lambda size: size - max(1, size // 3), lambda size: size - 1, lambda size: 1):
            sizes = {name: max(dimensions[name].least, less(size)) if name in pads else size for name, size in bucket.items()}
            taken = fits(bucket, sizes, pads) and smallest(buckets, sizes, pads) == index
            if taken and sizes != bucket and sizes not in chosen:
                chosen.append(sizes)
    return chosen


def _all_real(source: Source, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    inputs = source.sample(sizes, torch.Generator().manual_seed(1000))
    assert source.padding is not None
    inputs[source.padding] = torch.ones_like(inputs[source.padding])
    return inputs


def _changed_by_padding(
    source: Source,
    case: ReferenceCase,
    bucket: dict[str, int],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[OutputInfo],
    padding: TensorInfo,
) -> str:
    """The first output that differs from the case's when its inputs are padded up to `bucket`; empty where none does."""
    grown = pad(case.inputs, inputs, bucket, padding)
    larger = run_case(source, "", bucket, {name: torch.from_numpy(np.copy(array)) for name, array in grown.items()})
    got: Arrays = cut(larger.outputs, outputs, case.sizes)
    valid = {info.name: valid_positions(info, padding, case.inputs) for info in outputs}
    compared = compare_outputs(got, case.outputs, outputs, valid)
    return "" if passed([compared]) else next(row.output for row in compared if not row.passed)
