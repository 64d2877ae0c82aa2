"""The one way into attention: plain differentiable maths in eager mode, one custom operator while exporting.

So training, autocast, torch.compile and autograd see ordinary torch, and an exported program holds exactly one
`edgeattn.attention` node per attention core, whatever the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.attention.checks import check_inputs
from edgeattn.models.attention.naive import masked, softmax_attention, visible, weights
from edgeattn.spec import AttentionSpec, Causal, Full, from_json, to_json

_TENSORS = 8
"""Tensors among the operator's arguments."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    sink: Tensor | None = None,
    score_weight: Tensor | None = None,
    prefix: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """One attention core as `spec` describes it.

    Args:
        q: (B, H, S, D).
        k: (B, K, T, D).
        v: (B, K, T, E).
        spec: what to compute; see `edgeattn.spec.SoftmaxAttention`.
        mask: bool, True takes part; (B, T) for `spec.mask == "key_padding"`, broadcastable to (B, H, S, T) for "dense".
            For "document" the number of each position's document, int64 (B, T), S == T.
        bias: float, broadcastable to (B, H, S, T), when `spec.bias`.
        sink: float (H,), when `spec.sink`.
        score_weight: float (H, D), when `spec.score == "additive"`.
        prefix: int64 (B,), when `spec.pattern` is PrefixLM.
        dropout: share of the weights to drop, the rest scaled up; for training, so 0 while exporting.

    Returns:
        (B, H, S, E). A query that sees no key gives zeros. Hidden keys and values count for nothing, however large, but
        they must be finite: 0 times NaN is NaN.

    Raises:
        UsageError: the tensors do not fit the spec; dropout while exporting.
    """
    more = {"mask": mask, "bias": bias, "sink": sink, "score_weight": score_weight, "prefix": prefix}
    mask, bias = prepared(q, k, v, spec, more)
    if spec.lse:
        raise UsageError("a spec with lse=True has two results: call edgeattn.models.partial.partial_attention")
    if torch.compiler.is_exporting():
        if dropout:
            raise UsageError(f"attention with dropout {dropout:g} while being exported; call .eval() on the model first")
        exported: Tensor = operator(q, k, v, mask, bias, sink, score_weight, prefix, constant_json(spec))
        return exported
    if spec.plain and spec.softcap is None:
        return _sdpa(q, k, v, spec, mask, bias, prefix, dropout)
    if dropout:
        kept = F.dropout(weights(q, k, spec, mask, bias, sink, score_weight, prefix), dropout)
        return kept @ v.repeat_interleave(spec.group, dim=1)
    return softmax_attention(q, k, v, spec, mask, bias, sink, score_weight, prefix)


def prepared(
    q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, more: Mapping[str, Tensor | None]
) -> tuple[Tensor | None, Tensor | None]:
    """Mask and bias with the rank that an exported operator has, after all inputs were checked. Raises UsageError."""
    check_inputs(q, k, v, spec, more)
    mask, bias = more.get("mask"), more.get("bias")
    return _four_axes(mask) if spec.mask == "dense" else mask, _four_axes(bias)


@torch.library.custom_op("edgeattn::attention", mutates_args=())
def operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sink: Tensor | None,
    score_weight: Tensor | None,
    prefix: Tensor | None,
    spec: str,
) -> Tensor:
    """`torch.ops.edgeattn.attention`: what `attention` leaves in an exported program; `spec` is canonical JSON.

    A dense mask and a bias always have four axes here.
    """
    return softmax_attention(q, k, v, from_json(spec), mask, bias, sink, score_weight, prefix)


@operator.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sink: Tensor | None,
    score_weight: Tensor | None,
    prefix: Tensor | None,
    spec: str,
) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.spec = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Recomputes the formula: an exported program can still be fine-tuned, at the price of time, not of memory."""
    wanted = [bool(needs) for needs in ctx.needs_input_grad[:_TENSORS]]
    with torch.enable_grad():
        inputs = [
            None if x is None else x.detach().requires_grad_(needs) for x, needs in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        q, k, v, *rest = inputs
        output = softmax_attention(q, k, v, from_json(ctx.spec), *rest)  # type: ignore[arg-type]
        leaves = [x for x, needs in zip(inputs, wanted, strict=True) if x is not None and needs]
        grads = iter(torch.autograd.grad(output, leaves, grad))
    return (*(next(grads) if needs else None for needs in wanted), None)


operator.register_autograd(_backward, setup_context=_save)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spec: AttentionSpec,
    mask: Tensor | None,
    bias: Tensor | None,
    prefix: Tensor | None,
    dropout: float,
) -> Tensor:
    causal = spec.pattern == Causal("upper_left") and mask is None and bias is None
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if causal else _merged_mask(q, k, spec, mask, bias, prefix),
        dropout_p=dropout,
        is_causal=causal,
        scale=spec.scale,
        enable_gqa=spec.group > 1,
    )


def _merged_mask(
    q: Tensor, k: Tensor, spec: AttentionSpec, mask: Tensor | None, bias: Tensor | None, prefix: Tensor | None
) -> Tensor | None:
    """Pattern, mask and bias as the one `attn_mask` that scaled_dot_product_attention takes; None hides nothing."""
    shown = None if isinstance(spec.pattern, Full) else visible(spec.pattern, q.shape[2], k.shape[2], q.device, prefix)
    if mask is not None:
        mask = masked(spec, mask)
        shown = mask if shown is None else shown & mask
    if bias is None or shown is None:
        return shown if bias is None else bias
    return torch.where(shown, bias, -torch.inf)


# `torch.export(strict=True)` traces Python line by line, and cannot trace the json module.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def constant_json(spec: AttentionSpec) -> str:
    """`to_json`, as a constant of the exported program."""
    return to_json(spec)


def _four_axes(x: Tensor | None) -> Tensor | None:
    """Leading axes of size 1 added, so that what is exported has one rank."""
    return None if x is None else x[(None,) * (4 - x.dim())]
