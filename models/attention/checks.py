"""Do these tensors fit this spec? Said before torch says it less clearly.

Symbolic sizes are left alone, so that checking never narrows the shapes that an export allows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.patterns import longest
from edgeattn.spec import AttentionSpec

_AXES = {"q": "(B, H, S, D)", "k": "(B, K, T, D)", "v": "(B, K, T, E)"}


def check_inputs(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, more: Mapping[str, Tensor | None]) -> None:
    """Raise UsageError where rank, sizes, dtype or presence of an input differ from what `spec` says.

    `more` holds the inputs after v by name, None where they were not given.
    """
    if not isinstance(spec, AttentionSpec):
        raise UsageError(f"spec must be an attention spec of edgeattn.spec, got {type(spec).__name__}")
    _check_core(q, k, v, spec)
    _check_lengths(q.shape[2], k.shape[2], spec)
    said = {"mask": f"mask={spec.mask!r}", "score_weight": f"score={spec.score!r}", "prefix": spec.pattern.summary()}
    for name, asked in spec.asks.items():
        _check_presence(name, more.get(name) is not None, asked, said.get(name, f"{name}={asked}"))
    full = (q.shape[0], spec.q_heads, q.shape[2], k.shape[2])
    if (mask := more.get("mask")) is not None:
        _check_mask(mask, spec, full)
    if (bias := more.get("bias")) is not None:
        _check_float("bias", bias, "; a bool belongs in mask")
        _check_broadcast("bias", bias, full)
    for name, sizes in (("sink", (spec.q_heads,)), ("score_weight", (spec.q_heads, spec.head_dim))):
        if (x := more.get(name)) is not None:
            _check_float(name, x)
            _check_sizes(name, x, sizes)
    if (prefix := more.get("prefix")) is not None:
        _check_whole("prefix", prefix)
        _check_sizes("prefix", prefix, (full[0],))


def _check_lengths(queries: int, keys: int, spec: AttentionSpec) -> None:
    limit = longest(spec.pattern)
    if limit is not None:
        for name, length in (("queries", queries), ("keys", keys)):
            if _known(length) and length > limit:
                raise UsageError(
                    f"{length} {name}, but the layout describes {limit} positions; make it larger, or cut the input"
                )
    if spec.mask == "document" and _known(queries, keys) and queries != keys:
        raise UsageError(f"a document mask is for one sequence that sees itself: got {queries} queries and {keys} keys")


def _check_core(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise UsageError(f"{name} must be {_AXES[name]}, got {x.dim()} axes of sizes {tuple(x.shape)}")
        if not x.is_floating_point():
            raise UsageError(f"{name} must be of a float dtype, got {x.dtype}; cast it before attention")
    _check_size("heads of q", q.shape[1], spec.q_heads, "spec.q_heads")
    _check_size("heads of k", k.shape[1], spec.kv_heads, "spec.kv_heads")
    _check_size("heads of v", v.shape[1], spec.kv_heads, "spec.kv_heads")
    _check_size("head size of q", q.shape[3], spec.head_dim, "spec.head_dim")
    _check_size("head size of k", k.shape[3], spec.head_dim, "spec.head_dim")
    _check_size("head size of v", v.shape[3], spec.value_head_dim, "spec.value_head_dim")
    _check_size("batch of k", k.shape[0], q.shape[0], "the batch of q")
    _check_size("batch of v", v.shape[0], q.shape[0], "the batch of q")
    _check_size("length of v", v.shape[2], k.shape[2], "the length of k")
    # Autocast brings the three to one dtype itself.
    if not q.dtype == k.dtype == v.dtype and not torch.is_autocast_enabled(q.device.type):
        raise UsageError(f"q, k and v must be of one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")


def _check_presence(name: str, given: bool, wanted: bool, said: str) -> None:
    if wanted and not given:
        raise UsageError(f"{name} is missing: the spec has {said}; pass {name}=..., or build the spec without it")
    if given and not wanted:
        raise UsageError(f"{name} was given, but the spec has {said}; build the spec with it, or leave {name} out")


def _check_float(name: str, x: Tensor, more: str = "") -> None:
    if not x.is_floating_point():
        raise UsageError(f"{name} must be of a float dtype, got {x.dtype}{more}")


def _check_whole(name: str, x: Tensor) -> None:
    if x.dtype != torch.int64:
        raise UsageError(f"{name} must be int64, got {x.dtype}")


def _check_sizes(name: str, x: Tensor, sizes: tuple[int, ...]) -> None:
    if x.dim() != len(sizes) or any(_known(got, want) and got != want for got, want in zip(x.shape, sizes, strict=True)):
        raise UsageError(f"{name} must have sizes {sizes}, got {tuple(x.shape)}")


def _check_mask(mask: Tensor, spec: AttentionSpec, full: tuple[int, int, int, int]) -> None:
    if spec.mask == "document":
        _check_whole("a document mask", mask)
        _check_sizes("a document mask", mask, (full[0], full[3]))
        return
    if mask.dtype != torch.bool:
        raise UsageError(f"mask must be bool (True takes part), got {mask.dtype}; use mask.bool(), or a bias for added scores")
    if spec.mask == "dense":
        _check_broadcast("mask", mask, full)
        return
    if mask.dim() != 2:
        raise UsageError(f"a key_padding mask must be (B, T), got sizes {tuple(mask.shape)}; for (B, H, S, T) use mask='dense'")
    _check_size("batch of mask", mask.shape[0], full[0], "the batch of q")
    _check_size("length of mask", mask.shape[1], full[3], "the length of k")


def _check_broadcast(name: str, x: Tensor, full: tuple[int, int, int, int]) -> None:
    pairs = list(zip(reversed(x.shape), reversed(full), strict=False))
    fits = all(not _known(got, want) or got in (1, want) for got, want in pairs)
    if x.dim() > 4 or not fits:
        raise UsageError(f"{name} of sizes {tuple(x.shape)} cannot be broadcast to (B, H, S, T) = {full}")


def _check_size(what: str, got: int, want: int, source: str) -> None:
    if _known(got, want) and got != want:
        raise UsageError(f"{what}: got {got}, expected {want} ({source})")


def _known(*sizes: object) -> bool:
    """False for the symbolic sizes of an export, whose comparison would fix them."""
    return all(isinstance(size, int) for size in sizes)
