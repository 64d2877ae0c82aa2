"""Custom operators that cannot be: each is refused where it is made, registered or called, with the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch
from onnxscript import opset17, opset18, script
from onnxscript.values import Opset
from torch import Tensor, nn

from edgeattn.errors import CaptureError, UsageError
from edgeattn.exporters import CustomOperator, register_custom_operator
from edgeattn.exporters.graph import Builder

DYNAMIC = {"x": {0: "batch", 1: "sequence"}}


class Calling(nn.Module):
    """A module of one call."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the call says."""
        return self.call(x)


@torch.library.custom_op("edgeattn_limits::plain", mutates_args=())
def plain(x: Tensor, n: int | None = None) -> Tensor:
    """Without a body, until a test registers one."""
    return x * (2 if n is None else n)


@plain.register_fake
def _(x: Tensor, n: int | None = None) -> Tensor:
    return torch.empty_like(x)


def times(b: Builder, x: ir.Value, n: ir.Value) -> ir.Value:
    """x times n."""
    return b.op("Mul", x, b.op("CastLike", n, x))


def test_an_operator_without_a_body_says_how_to_give_one(captured: Callable[..., Any]) -> None:
    @torch.library.custom_op("edgeattn_limits::unknown", mutates_args=())
    def unknown(x: Tensor) -> Tensor:
        return x + 1

    unknown.register_fake(torch.empty_like)
    with pytest.raises(CaptureError, match=r"edgeattn_limits\.unknown(.|\n)*edgeattn\.exporters\.register_custom_operator"):
        captured(Calling(unknown), {"x": torch.randn(2, 5, 8)}, DYNAMIC)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: plain(x, x.shape[1]), "tests.plain::Plain: argument 'n' depends on the size of an input"),
        (lambda x: plain(x), "tests.plain::Plain: argument 'n' is None"),
    ],
)
def test_arguments_that_are_no_attributes(call: Callable[[Tensor], Tensor], message: str, captured: Callable[..., Any]) -> None:
    register_custom_operator(CustomOperator(plain, "Plain", "tests.plain", times))
    with pytest.raises(CaptureError, match=message):
        captured(Calling(call), {"x": torch.randn(2, 5, 8)}, DYNAMIC)


@torch.library.custom_op("edgeattn_limits::optional", mutates_args=())
def optional(x: Tensor, bias: Tensor | None) -> Tensor:
    """A tensor that may be absent."""
    return x.clone()


@torch.library.custom_op("edgeattn_limits::mutating", mutates_args=("x",))
def mutating(x: Tensor) -> None:
    """Writes into its input."""
    x.add_(1)


@script(Opset("tests.plain", 1))  # type: ignore[untyped-decorator]
def named_otherwise(x, k: int):  # type: ignore[no-untyped-def]
    return opset18.Mul(x, opset18.CastLike(k, x))


@script(Opset("tests.plain", 1))  # type: ignore[untyped-decorator]
def old_body(x, n: int):  # type: ignore[no-untyped-def]
    return opset17.Mul(x, opset17.CastLike(n, x))


@script(Opset("tests.plain", 1))  # type: ignore[untyped-decorator]
def foreign_body(x, n: int):  # type: ignore[no-untyped-def]
    return named_otherwise(x, k=n)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no torch operator": ({"operator": len}, "operator is a builtin_function_or_method; expected what torch.library.custom_op"),
    "overloads": ({"operator": torch.ops.aten.add}, "has the overloads .*; name one of them"),
    "absent tensor": ({"operator": optional}, r"argument 'bias' of .* is of type Optional\[Tensor\]"),
    "mutation": ({"operator": mutating}, "changes an input, which no ONNX node does"),
    "scalar result": ({"operator": torch.ops.aten.size.int}, "has to return tensors"),
    "name": ({"name": "Two Words"}, "'Two Words' is no name for an operator"),
    "standard domain": ({"domain": ""}, "'' is no domain for an operator of one's own"),
    "runtime's domain": ({"domain": "com.microsoft.mine"}, "and none that ONNX, a runtime or edgeattn uses"),
    "our domain": ({"domain": "edgeattn"}, "and none that ONNX, a runtime or edgeattn uses"),
    "version": ({"version": 0}, "the version must be a whole number >= 1, got 0"),
    "renamed nothing": ({"attributes": {"k": "kk"}}, "attributes names 'k', which .* does not take as one"),
    "renamed a tensor": ({"attributes": {"x": "xx"}}, "attributes names 'x'"),
    "two outputs": ({"body": lambda b, x, n: (x, x)}, "the body has 1 inputs and 2 outputs; the operator has 1"),
    "no value": ({"body": lambda b, x, n: None}, "the body returned None; expected values"),
    "foreign operator": (
        {"body": lambda b, x, n: b.op("Gelu", x, domain="com.microsoft")},
        "the body uses com.microsoft::Gelu; expected operators of ai.onnx alone",
    ),
    "another function": ({"body": foreign_body}, "the body uses tests.plain::named_otherwise"),
    "attributes of a script": (
        {"body": named_otherwise},
        "attribute 'k' is not one of both, body and operator; the operator has: n",
    ),
    "old opset": ({"body": old_body}, "written in opset 17; expected 18"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_an_operator_is_refused_when_it_is_made(case: str) -> None:
    change, message = REFUSED[case]
    sound: dict[str, Any] = {"operator": plain, "name": "Plain", "domain": "tests.plain", "body": times}
    CustomOperator(**sound)
    with pytest.raises(UsageError, match=message):
        CustomOperator(**{**sound, **change})


def test_a_body_may_hand_an_input_on(captured: Callable[..., Any]) -> None:
    """torch.library forbids an operator to return its input, but a body may: dropout in eval mode is nothing."""

    @torch.library.custom_op("edgeattn_limits::same", mutates_args=())
    def same(x: Tensor) -> Tensor:
        return x.clone()

    same.register_fake(torch.empty_like)
    register_custom_operator(CustomOperator(same, "Same", "tests.same", lambda b, x: x))
    captured(Calling(lambda x: same(x) * 2), {"x": torch.randn(2, 5, 8)}, DYNAMIC).check(batch=1, sequence=3)


def test_a_node_belongs_to_one_operator() -> None:
    @torch.library.custom_op("edgeattn_limits::other", mutates_args=())
    def other(x: Tensor, n: int) -> Tensor:
        return x * n

    sound = register_custom_operator(CustomOperator(plain, "Plain", "tests.plain", times))
    assert register_custom_operator(sound) is sound, "a file that is read again registers again"
    with pytest.raises(UsageError, match=r"tests\.plain::Plain is the node of torch operator edgeattn_limits::plain already"):
        register_custom_operator(CustomOperator(other, "Plain", "tests.plain", times))
    with pytest.raises(UsageError, match="a model has one version of a domain"):
        register_custom_operator(CustomOperator(other, "Other", "tests.plain", times, version=2))


@pytest.mark.parametrize("operator", [plain, torch.ops.edgeattn_limits.plain, torch.ops.edgeattn_limits.plain.default])
def test_ways_to_name_an_operator(operator: Any) -> None:
    named = CustomOperator(operator, "Plain", "tests.plain", times)
    assert named.overload is torch.ops.edgeattn_limits.plain.default
    assert named.label == "tests.plain::Plain"
