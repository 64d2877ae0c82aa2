"""Small examples of variants: inputs made by the names of forward's parameters.

A parameter with a default is left out, unless the spec asks for it. Random weights and inputs, always the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeattn.errors import UsageError
from edgeattn.models.attention.core import AttentionCore
from edgeattn.patterns import longest
from edgeattn.spec import AttentionSpec

Inputs = dict[str, Tensor]
Dynamic = dict[str, dict[int, Any]]

_ONE = ("batch", "sequence", "embed_dim")
_OTHER = ("batch", "context", "context_dim")
_AXES: dict[str, tuple[str, ...]] = {
    "x": _ONE,
    "query": _ONE,
    "context": _OTHER,
    "key": _OTHER,
    "value": _OTHER,
    "q": ("batch", "q_heads", "sequence", "head_dim"),
    "k": ("batch", "kv_heads", "context", "head_dim"),
    "v": ("batch", "kv_heads", "context", "value_head_dim"),
    "score_bias": ("batch", "q_heads", "sequence", "context"),
    "prefix": ("batch",),
}
"""What each parameter of a forward stands for. Where no parameter is a second sequence, "context" means "sequence"."""
_MASK_AXES = {
    "key_padding": ("batch", "context"),
    "dense": ("batch", "q_heads", "sequence", "context"),
    "document": ("batch", "sequence"),
}
_SECOND = {"context", "key", "value", "k", "v"}
_DYNAMIC = ("batch", "sequence", "context")


def build(
    create: Callable[..., nn.Module], name: str, options: Mapping[str, Any], sequence: int, batch: int
) -> tuple[nn.Module, Inputs, Dynamic]:
    """The example of the variant `name` with `options`; see `edgeattn.models.example`.

    Raises:
        UsageError: a size that the example cannot have, or a parameter of forward that stands for nothing known.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = cast(AttentionCore, create(name, **options).eval())
        return module, *draw(module, options, sequence, batch, sequence + 1)


def draw(module: AttentionCore, options: Mapping[str, Any], sequence: int, batch: int, context: int) -> tuple[Inputs, Dynamic]:
    """Inputs of a module that was made with `options`, and their dynamic axes.

    `context` is the length of the second sequence, where there is one.

    Raises:
        UsageError: as `build`.
    """
    names, limit = _wanted(module), _limit(module, options)
    if not _SECOND & set(names):
        context = sequence
    sizes = {
        "batch": batch,
        "sequence": sequence,
        "context": context,
        "context_dim": options.get("embed_dim"),
        **options,
        **{name: getattr(module.spec, name) for name in ("q_heads", "kv_heads", "head_dim", "value_head_dim")},
    }
    _check_sizes(sizes, limit)
    axes = {name: _axes(name, module.spec) for name in names}
    inputs = {name: _tensor(name, tuple(sizes[axis] for axis in axes[name]), module.spec) for name in names}
    return inputs, _dynamic(axes, bool(_SECOND & set(names)), limit)


def _limit(module: AttentionCore, options: Mapping[str, Any]) -> int | None:
    """Largest length: of the pattern's layout, or of the option `max_length`, which means nothing else."""
    limits = [limit for limit in (longest(module.spec.pattern), options.get("max_length")) if limit is not None]
    return min(limits, default=None)


def _wanted(module: AttentionCore) -> list[str]:
    asks = module.spec.asks | {"score_bias": module.takes_bias}
    parameters = inspect.signature(module.forward).parameters
    return [name for name, p in parameters.items() if p.default is p.empty or asks.get(name, False)]


def _axes(name: str, spec: AttentionSpec) -> tuple[str, ...]:
    axes = _MASK_AXES.get(spec.mask) if name == "mask" else _AXES.get(name)
    if axes is None:
        raise UsageError(
            f"no example for the parameter {name!r} of forward: name it after what it is ({', '.join(_AXES)}, mask), "
            "or give it a default"
        )
    return axes


def _check_sizes(sizes: Mapping[str, Any], limit: int | None) -> None:
    for name in _DYNAMIC:
        size = sizes[name]
        if size < 1 or (limit is not None and name != "batch" and size > limit):
            raise UsageError(f"{name} must be at least 1{f' and at most {limit}' * (limit is not None)} here, got {size}")


def _tensor(name: str, shape: tuple[int, ...], spec: AttentionSpec) -> Tensor:
    if name == "prefix":
        return torch.arange(1, shape[0] + 1)
    if name != "mask":
        return torch.randn(shape)
    if spec.mask == "dense":
        return torch.rand(shape) < 0.7
    last = torch.arange(shape[1])
    if spec.mask == "document":  # two documents, the last row with padding at its end
        mask = (2 * last // shape[1]).repeat(shape[0], 1)
        mask[-1, 1 + 3 * shape[1] // 4 :] = -1
        return mask
    mask = torch.ones(shape, dtype=torch.bool)
    mask[-1, 1 + shape[1] // 2 :] = False
    return mask


def _dynamic(axes: Mapping[str, tuple[str, ...]], two: bool, limit: int | None) -> Dynamic:
    symbols: dict[str, Any] = {"batch": "batch"}
    for name in ("sequence", "context"):
        symbols[name] = name if limit is None else torch.export.Dim(name, max=limit)
    if not two:
        symbols["context"] = symbols["sequence"]
    return {name: {i: symbols[axis] for i, axis in enumerate(row) if axis in symbols} for name, row in axes.items()}
