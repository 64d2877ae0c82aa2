"""A model with an operator of its own, as PyTorch runs it, and what `edgeattn export` is told about that operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor, nn

from edgeattn.exporters import CustomOperator, register_custom_operator
from edgeattn.models import create


@torch.library.custom_op("gating::gated_rms_norm", mutates_args=())
def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight * silu(gate), the output norm of gated linear attention; x and gate (..., N), weight (N,)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight * F.silu(gate)


@gated_rms_norm.register_fake
def _fake(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Shapes alone: what torch.export traces with, so that batch and sequence stay dynamic."""
    return torch.empty_like(x)


@script(Opset("gating", 1))
def gated_rms_norm_body(x, gate, weight, eps: float):
    """The same in standard operators: what a runtime without a kernel runs."""
    mean = op.ReduceMean(x * x, [-1], keepdims=1)
    return x / op.Sqrt(mean + eps) * weight * gate * op.Sigmoid(gate)


register_custom_operator(CustomOperator(gated_rms_norm, name="GatedRMSNorm", domain="gating", body=gated_rms_norm_body))


class Block(nn.Module):
    """x (B, S, 64) -> (B, S, 64): causal attention whose output is normalized and gated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = create("causal", embed_dim=64, num_heads=4)
        self.gate = nn.Linear(64, 64)
        self.weight = nn.Parameter(torch.rand(64) + 0.5)
        self.out = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """One residual step."""
        return {"hidden": x + self.out(gated_rms_norm(self.attention(x), self.gate(x), self.weight, 1e-5))}


def build() -> tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]:
    """The model, example inputs, and which axes vary."""
    return Block(), {"x": torch.randn(2, 5, 64)}, {"x": {0: "batch", 1: "sequence"}}
