"""torch's own attention modules: every attention in them is a site, and what their masks mean is in its spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn import export
from edgeattn.errors import CaptureError
from edgeattn.exporters.capture import capture
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.factory import from_factory
from edgeattn.spec import AttentionSpec, Causal, SoftmaxAttention

Call = Callable[[Any, Tensor, Tensor, Tensor], Any]


class Module(nn.Module):
    """One of torch's modules, called with x (B, S, 16), y (B, T, 16) and attention_mask (B, S), 0 where there is nothing."""

    def __init__(self, inner: nn.Module, call: Call) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, x: Tensor, y: Tensor, attention_mask: Tensor) -> Any:
        return self.call(self.inner, x, y, attention_mask == 0)


def spec(**options: Any) -> AttentionSpec:
    """Two heads of size 8."""
    return SoftmaxAttention(2, 2, 8, **options)


def attention(**options: Any) -> nn.Module:
    """nn.MultiheadAttention whose weights are far from uniform."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 2, **{"batch_first": True, **options})
    for weight in module.parameters():
        weight.data.mul_(1.5)
    return module


def future(x: Tensor) -> Tensor:
    """-inf above the diagonal, as torch makes it."""
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1])


def crossing(a: Any, x: Tensor, y: Tensor, p: Tensor) -> Any:
    """Keys and values narrower than queries."""
    return a(x, y[..., :12], y[..., :10], need_weights=False)[0]


def batch_second(a: Any, x: Tensor, y: Tensor, p: Tensor) -> Any:
    """Sequence first."""
    s = x.transpose(0, 1)
    return a(s, s, s, key_padding_mask=p, need_weights=False)[0].transpose(0, 1)


CASES: dict[str, tuple[Callable[[], nn.Module], Call, list[AttentionSpec]]] = {
    "padding": (
        attention,
        lambda a, x, y, p: a(x, x, x, key_padding_mask=p, need_weights=False)[0],
        [spec(mask="key_padding")],
    ),
    "sequence first": (lambda: attention(batch_first=False), batch_second, [spec(mask="key_padding")]),
    "bool mask": (
        attention,
        lambda a, x, y, p: a(x, x, x, attn_mask=future(x) < 0, need_weights=False)[0],
        [spec(pattern=Causal())],
    ),
    "float mask": (
        attention,
        lambda a, x, y, p: a(x, x, x, attn_mask=future(x), need_weights=False)[0],
        [spec(pattern=Causal())],
    ),
    "said to be causal": (
        attention,
        lambda a, x, y, p: a(x, x, x, attn_mask=future(x), is_causal=True, need_weights=False)[0],
        [spec(pattern=Causal())],
    ),
    "causal and padding": (
        attention,
        lambda a, x, y, p: a(x, x, x, attn_mask=future(x) < 0, key_padding_mask=p, need_weights=False)[0],
        [spec(pattern=Causal(), mask="key_padding")],
    ),
    "cross": (lambda: attention(kdim=12, vdim=10), crossing, [spec()]),
    "a learned key": (
        lambda: attention(add_bias_kv=True),
        lambda a, x, y, p: a(x, x, x, key_padding_mask=p, need_weights=False)[0],
        [spec(bias=True)],
    ),
    "a zero key": (
        lambda: attention(add_zero_attn=True),
        lambda a, x, y, p: a(x, x, x, key_padding_mask=p, need_weights=False)[0],
        [spec(bias=True)],
    ),
    "weights that nobody reads": (
        attention,
        lambda a, x, y, p: a(x, x, x, key_padding_mask=p)[0],
        [spec(mask="key_padding")],
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        lambda m, x, y, p: m(x, mask=future(x)),
        [spec(pattern=Causal())] * 2,
    ),
    "encoder, padded": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False),
        lambda m, x, y, p: m(x, src_key_padding_mask=p),
        [spec(mask="key_padding")] * 2,
    ),
    "decoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 1),
        lambda m, x, y, p: m(x, y, tgt_mask=future(x), tgt_key_padding_mask=p),
        [spec(pattern=Causal(), mask="key_padding"), spec()],
    ),
    "transformer": (
        lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
        lambda m, x, y, p: m(y, x, tgt_mask=future(x)),
        [spec(), spec(pattern=Causal()), spec()],
    ),
}
QUICK = {"causal and padding", "a zero key", "decoder", "encoder"}
AXES = {"x": {0: "batch", 1: "sequence"}, "y": {0: "batch", 1: "keys"}, "attention_mask": {0: "batch", 1: "sequence"}}


def inputs() -> dict[str, Tensor]:
    """Two rows, one of them padded."""
    torch.manual_seed(1)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {"x": torch.randn(2, 6, 16), "y": torch.randn(2, 9, 16), "attention_mask": mask}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES])
def test_every_attention_is_a_site(name: str, captured: Callable[..., Any]) -> None:
    build, call, expected = CASES[name]
    result = captured(Module(build(), call), inputs(), AXES)
    assert [site.spec for site in find_sites(result.model)] == expected
    assert unraised(result.model) == []
    for batch, sequence, keys in ((1, 1, 1), (3, 7, 5)):
        result.check(batch=batch, sequence=sequence, keys=keys)


def test_weights_that_are_an_output_stay_written_out(captured: Callable[..., Any]) -> None:
    result = captured(Module(attention(), lambda a, x, y, p: a(x, x, x)), inputs(), AXES)
    assert (find_sites(result.model), unraised(result.model)) == ([], ["inner"])
    result.check(batch=2, sequence=7, keys=3)


@pytest.mark.slow
def test_an_encoder_decoder_becomes_a_bundle(tmp_path: Path) -> None:
    build, call, expected = CASES["transformer"]
    report = export(
        Module(build(), call).eval(),
        inputs(),
        output=tmp_path / "out",
        runtimes=["onnxruntime:cpu", "openvino:cpu"],
        dynamic=AXES,
    )
    assert report.passed
    assert [site.spec for site in report.sites] == expected


LOOP = """
import torch
from torch import nn

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x):
        h, out = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):  # the line to name
            h = self.cell(x[:, t], h)
            out.append(h)
        return torch.stack(out, 1)

def build():
    return Recurrent(), {"x": torch.randn(2, 5, 4)}, {"x": {0: "batch", 1: "sequence"}}
"""


def test_a_loop_over_time_names_the_axis_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "recurrent.py"
    path.write_text(LOOP)
    with pytest.raises(CaptureError) as caught:
        capture(from_factory(f"{path}:build"), ["output"])
    message = str(caught.value)
    assert "sequence would be static, 5 and nothing else. A Python loop over that axis does this" in message
    assert f"{path}:12 in forward: for t in range(x.shape[1]):  # the line to name" in message
    assert "declare sequence static" in message
