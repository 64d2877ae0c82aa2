"""Fixed sizes: a model written for a few choices of its dynamic sizes (buckets) takes feeds of any size that one of them holds.

Feeds that mark their padding are padded up to the bucket, and what comes out is cut back; other feeds must have a bucket's
very sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import FeedError
from edgeattn.manifest import TensorInfo, describe_sizes

Array = NDArray[Any]
Sizes = Mapping[str, int]


def sizes_of(infos: Iterable[TensorInfo], arrays: Mapping[str, Array]) -> dict[str, int]:
    """The size that each dynamic dimension has in these arrays."""
    return {dim: arrays[info.name].shape[axis] for info in infos for axis, dim in enumerate(info.dims) if isinstance(dim, str)}


def smallest(buckets: Sequence[Sizes], asked: Sizes, pads: Sequence[str]) -> int | None:
    """Index of the smallest bucket that takes `asked`: larger in the dimensions of `pads` at most, equal in the others."""
    fitting = [index for index, bucket in enumerate(buckets) if fits(bucket, asked, pads)]
    return min(fitting, key=lambda index: math.prod(buckets[index].values()), default=None)


def fits(bucket: Sizes, asked: Sizes, pads: Sequence[str]) -> bool:
    """Whether feeds of the sizes `asked` can run at those of `bucket`."""
    return all(bucket[name] == size or (name in pads and size < bucket[name]) for name, size in asked.items() if name in bucket)


def no_bucket(buckets: Sequence[Sizes], asked: Sizes, pads: Sequence[str]) -> FeedError:
    """The error for feeds that no bucket takes."""
    has = "; ".join(describe_sizes(bucket) for bucket in buckets)
    how = f"anything up to one of these in {' and '.join(pads)}" if pads else "exactly one of these, since nothing pads them"
    return FeedError(
        f"got {describe_sizes(asked)}; the model was exported for fixed sizes and takes {how}: {has}. "
        "Cut or split the feeds, or export the model with another --static-shapes"
    )


def pad(
    feeds: Mapping[str, Array], inputs: Iterable[TensorInfo], bucket: Sizes, padding: TensorInfo | None
) -> dict[str, Array]:
    """Feeds grown to the sizes of `bucket`: by zeros, which the padding mask reads as padding, and along the batch by
    repeating its last entry, so that whatever measures ranges over a whole tensor sees no new value."""
    batch = padding.dims[0] if padding is not None and padding.dims else None
    return {info.name: _grow(feeds[info.name], info, bucket, batch) for info in inputs}


def _grow(array: Array, info: TensorInfo, bucket: Sizes, batch: int | str | None) -> Array:
    for axis, dim in enumerate(info.dims):
        missing = bucket[dim] - array.shape[axis] if isinstance(dim, str) and dim in bucket else 0
        if missing > 0:
            width = [(0, missing if place == axis else 0) for place in range(array.ndim)]
            array = np.pad(array, width, mode="edge") if dim == batch else np.pad(array, width)
    return array


def cut(arrays: Mapping[str, Array], infos: Iterable[TensorInfo], sizes: Sizes) -> dict[str, Array]:
    """What belongs to the feeds as they were, `sizes` being theirs; arrays that are no larger stay as they are."""
    result = dict(arrays)
    for info in infos:
        array = result.get(info.name)
        if array is not None and array.ndim == len(info.dims):
            kept = tuple(slice(sizes[dim]) if isinstance(dim, str) and dim in sizes else slice(None) for dim in info.dims)
            result[info.name] = np.ascontiguousarray(array[kept]) if array[kept].shape != array.shape else array
    return result
