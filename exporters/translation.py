"""How attention operators of a torch.export program become canonical nodes.

torch's exporter always inlines functions, so the node leaves it opaque, with its spec as an attribute;
`edgeattn.exporters.canonical` gives it its name and body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18
from onnxscript.values import Op, Opset

from edgeattn.errors import CaptureError
from edgeattn.exporters.canonical import CAPTURED_OP, SPEC_ATTRIBUTE
from edgeattn.exporters.sites import DOMAIN
from edgeattn.models import functional
from edgeattn.spec import Causal, Full, SoftmaxAttention, to_json

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's `custom_translation_table`."""
    return {
        functional.operator._opoverload: _attention,
        torch.ops.aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
    }


def _captured() -> Op:
    """The opaque operator; without a schema the exporter refuses to emit it."""
    parameter, option = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.FormalParameterOption
    inputs = [parameter(name, "T") for name in ("q", "k", "v")]
    inputs += [parameter(name, kind, param_option=option.Optional) for name, kind in (("mask", "B"), ("bias", "T"))]
    schema = onnx.defs.OpSchema(
        CAPTURED_OP,
        DOMAIN,
        1,
        inputs=inputs,
        outputs=[parameter("context", "T")],
        type_constraints=[("T", _FLOATS, ""), ("B", ["tensor(bool)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute(SPEC_ATTRIBUTE, onnx.defs.OpSchema.AttrType.STRING)],
    )
    return Op(Opset(DOMAIN, 1), CAPTURED_OP, schema)


_CAPTURED = _captured()


def _attention(q: Any, k: Any, v: Any, mask: Any, bias: Any, spec: str) -> Any:
    return _CAPTURED(q, k, v, mask, bias, spec=spec)


def _scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """A model's own F.scaled_dot_product_attention: raised with the same meaning (is_causal is upper-left)."""
    if dropout_p:
        raise CaptureError("the model attends with dropout while being exported; call .eval() on it first")
    flat = len(query.shape) == 3
    if flat:  # (B, S, D) is one head
        query, key, value = (opset18.Unsqueeze(x, opset18.Constant(value_ints=[1])) for x in (query, key, value))
    spec = SoftmaxAttention(
        q_heads=1 if flat else _static(query, 1),
        kv_heads=1 if flat else _static(key, 1),
        head_dim=_static(query, -1),
        value_head_dim=_static(value, -1),
        scale=scale or 0.0,
        pattern=Causal() if is_causal else Full(),
        mask="dense" if _is_bool(attn_mask) else "none",
        bias=attn_mask is not None and not _is_bool(attn_mask),
    )
    if attn_mask is not None and flat and len(attn_mask.shape) == 3:
        attn_mask = opset18.Unsqueeze(attn_mask, opset18.Constant(value_ints=[1]))
    mask, bias = (attn_mask, None) if _is_bool(attn_mask) else (None, attn_mask)
    context = _CAPTURED(query, key, value, mask, bias, spec=to_json(spec))
    return opset18.Squeeze(context, opset18.Constant(value_ints=[1])) if flat else context


def _is_bool(value: Any) -> bool:
    return value is not None and value.dtype == ir.DataType.BOOL


def _static(value: Any, axis: int) -> int:
    size = value.shape[axis]
    if not isinstance(size, int):
        raise CaptureError(
            f"scaled_dot_product_attention on {value.name!r}: the number of heads and the head size must be fixed, got {size}"
        )
    return size
