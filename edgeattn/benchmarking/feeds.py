"""Feeds of any size, made from a golden case so that every value is one the model may see (token ids within its
vocabulary, for one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.buckets import no_bucket, smallest
from edgeattn.bundle import Bundle
from edgeattn.derived import derived_size, is_derived
from edgeattn.errors import UsageError, unknown
from edgeattn.golden import Golden, read_case
from edgeattn.manifest import PAST

Array = NDArray[Any]

DEFAULT_SIZES = {"batch": 1, "sequence": 128}


def resolve_sizes(bundle: Bundle, asked: Mapping[str, int] | None) -> dict[str, int]:
    """A size for every dynamic dimension: as asked, else of DEFAULT_SIZES (within the limits), else the largest golden one.
    Where sizes are fixed: as asked, else of the smallest choice of them that holds what was asked.

    Raises:
        UsageError: an unknown dimension, a size below 1 or over the model's limit.
        FeedError: no fixed sizes hold what was asked.
    """
    manifest = bundle.manifest
    symbols = {dim: None for info in manifest.inputs for dim in info.dims if isinstance(dim, str) and not is_derived(dim)}
    for name, size in (asked or {}).items():
        if name not in symbols:
            raise unknown("dimension", name, symbols)
        limit = manifest.limits.get(name)
        least = 0 if name == PAST else 1
        if size < least or (limit is not None and size > limit):
            raise UsageError(f"size {name}={size}: expected a whole number from {least} to {limit or 'any'}")
    if buckets := [flavour.sizes for flavour in manifest.flavours if flavour.sizes]:
        return _within(buckets, asked or {}, manifest.pads)
    largest = {name: max((case.sizes.get(name, 1) for case in manifest.golden), default=1) for name in symbols}
    sizes = {}
    for name in symbols:
        default = DEFAULT_SIZES.get(name, largest[name])
        sizes[name] = (asked or {}).get(name, min(default, manifest.limits.get(name, default)))
    return sizes


def _within(buckets: list[dict[str, int]], asked: Mapping[str, int], pads: Sequence[str]) -> dict[str, int]:
    index = smallest(buckets, asked, pads)
    if index is None:
        raise no_bucket([bucket for i, bucket in enumerate(buckets) if bucket not in buckets[:i]], asked, pads)
    return {**buckets[index], **asked}


def make_feeds(bundle: Bundle, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Feeds of these sizes: the largest golden case, repeated or cut along each dynamic axis; nothing is padding.

    Raises:
        UsageError: the bundle holds no golden case to take values from.
    """
    if not bundle.manifest.golden:
        raise UsageError(f"{bundle.path} holds no golden case to take feeds from; export the model again")
    golden = max((read_case(bundle, case) for case in bundle.manifest.golden), key=_elements)
    feeds = {}
    for info in bundle.manifest.inputs:
        array = golden.inputs[info.name]
        for axis, dim in enumerate(info.dims):
            if isinstance(dim, str):
                array = np.take(array, np.arange(_size(dim, sizes, array.shape[axis])), axis=axis, mode="wrap")
        if info.name == bundle.manifest.padding:
            array = np.ones_like(array)
        feeds[info.name] = np.ascontiguousarray(array)
    return feeds


def _size(dim: str, sizes: Mapping[str, int], golden: int) -> int:
    found = derived_size(dim, sizes) if is_derived(dim) else sizes[dim]
    return golden if found is None else found


def _elements(golden: Golden) -> int:
    return sum(array.size for array in golden.inputs.values())
