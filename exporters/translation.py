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
from edgeattn.exporters.canonical import CAPTURED_OP, CAPTURED_PARTIAL_OP, SPEC_ATTRIBUTE
from edgeattn.exporters.custom.registry import translations
from edgeattn.exporters.sites import DOMAIN
from edgeattn.models import functional, partial
from edgeattn.spec import Causal, Full, MaskKind, SoftmaxAttention, to_json

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's `custom_translation_table`."""
    return {
        functional.operator._opoverload: _attention,
        partial.partial_operator._opoverload: _partial_attention,
        torch.ops.aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
        **translations(),
    }


def _captured(name: str, outputs: tuple[str, ...]) -> Op:
    """The opaque operator; without a schema the exporter refuses to emit it."""
    parameter, option = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.FormalParameterOption
    inputs = [parameter(name, "T") for name in ("q", "k", "v")]
    more = {"mask": "M", "bias": "T", "sink": "T", "score_weight": "T", "prefix": "I"}
    inputs += [parameter(name, kind, param_option=option.Optional) for name, kind in more.items()]
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        1,
        inputs=inputs,
        outputs=[parameter(output, "T") for output in outputs],
        type_constraints=[("T", _FLOATS, ""), ("M", ["tensor(bool)", "tensor(int64)"], ""), ("I", ["tensor(int64)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute(SPEC_ATTRIBUTE, onnx.defs.OpSchema.AttrType.STRING)],
    )
    return Op(Opset(DOMAIN, 1), name, schema)


_CAPTURED = _captured(CAPTURED_OP, ("context",))
_CAPTURED_PARTIAL = _captured(CAPTURED_PARTIAL_OP, ("context", "lse"))


def _attention(*tensors_and_spec: Any) -> Any:
    *tensors, spec = tensors_and_spec
    return _CAPTURED(*tensors, spec=spec)


def _partial_attention(*tensors_and_spec: Any) -> Any:
    q, k, v, mask, bias, score_weight, prefix, spec = tensors_and_spec
    return _CAPTURED_PARTIAL(q, k, v, mask, bias, None, score_weight, prefix, spec=spec)


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
    if isinstance(scale, int | float) and scale <= 0:
        raise CaptureError(f"scaled_dot_product_attention with scale {scale:g}: a scale must be > 0")
    missing = 4 - len(query.shape)
    if missing < 0:
        raise CaptureError(
            f"scaled_dot_product_attention on {len(query.shape)} axes; expected (B, H, S, D): fold the leading axes into one"
        )
    # (B, S, D) and (S, D) are attention with one head
    query, key, value = (_four_axes(x, missing) for x in (query, key, value))
    if attn_mask is not None and len(attn_mask.shape) == 3 and missing == 1:
        attn_mask = _four_axes(attn_mask, missing)
    padding = _key_padding(attn_mask, query, key)
    kind: MaskKind = "key_padding" if padding is not None else "dense" if _is_bool(attn_mask) else "none"
    spec = SoftmaxAttention(
        q_heads=_static(query, 1),
        kv_heads=_static(key, 1),
        head_dim=_static(query, 3),
        value_head_dim=_static(value, 3),
        scale=scale or 0.0,
        pattern=Causal() if is_causal else Full(),
        mask=kind,
        bias=attn_mask is not None and kind == "none",
    )
    mask, bias = (None, attn_mask) if kind == "none" else (attn_mask if padding is None else padding, None)
    context = _CAPTURED(query, key, value, mask, bias, spec=to_json(spec))
    return opset18.Squeeze(context, opset18.Constant(value_ints=_new_axes(missing))) if missing else context


def _new_axes(missing: int) -> list[int]:
    """Where axes of size 1 go: the heads, and the batch where that is missing too."""
    return [1] if missing == 1 else [0, 1]


def _four_axes(value: Any, missing: int) -> Any:
    """The value with its missing axes; the exporter gives an operator's result no shape, so it is set here."""
    if not missing:
        return value
    wide = opset18.Unsqueeze(value, opset18.Constant(value_ints=_new_axes(missing)))
    dims = list(value.shape)
    wide.shape = ir.Shape([*dims[:1], 1, *dims[1:]] if missing == 1 else [1, 1, *dims])
    wide.dtype = value.dtype
    return wide


def _key_padding(mask: Any, query: Any, key: Any) -> Any:
    """A bool mask (B, 1, 1, T) as (B, T), since it says of each key alone whether it is seen; None for any other."""
    if not _is_bool(mask) or len(mask.shape) != 4 or list(mask.shape[1:3]) != [1, 1]:
        return None
    if (mask.shape[0], mask.shape[3]) != (query.shape[0], key.shape[2]):
        return None
    padding = opset18.Squeeze(mask, opset18.Constant(value_ints=[1, 2]))
    padding.shape, padding.dtype = ir.Shape([mask.shape[0], mask.shape[3]]), mask.dtype
    return padding


def _is_bool(value: Any) -> bool:
    return value is not None and value.dtype == ir.DataType.BOOL


def _static(value: Any, axis: int) -> int:
    size = value.shape[axis]
    if not isinstance(size, int):
        raise CaptureError(
            f"scaled_dot_product_attention on {value.name!r}: the number of heads and the head size must be fixed, got {size}"
        )
    return size
