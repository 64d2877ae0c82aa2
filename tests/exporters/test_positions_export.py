"""Positions and compositions as graphs: plain opset-18 maths around canonical cores, right at lengths the example did not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites
from edgeattn.models import create
from edgeattn.models.positions.alibi import AlibiPositions
from edgeattn.models.positions.frequencies import DynamicNTK, Linear, Llama3, YaRN
from edgeattn.models.positions.rope import RotaryPositions
from edgeattn.models.positions.shaw import ShawPositions
from edgeattn.models.positions.t5 import T5Positions

LENGTHS = (1, 7, 40)
"""The example has 5 positions."""

Make = Callable[[], nn.Module]


def made(name: str, **options: Any) -> Make:
    return lambda: create(name, embed_dim=16, num_heads=2, **options)


LATENT: dict[str, Any] = {"head_dim": 6, "kv_rank": 5, "rope_dim": 4}
SAMPLE: dict[str, Make] = {
    "rope, dynamic NTK": made("rope", scaling=DynamicNTK(4.0, trained=8), causal=True),
    "shaw": made("shaw", max_distance=3),
    "differential, rope": made("differential", positions=RotaryPositions(4), causal=True),
}
MORE: dict[str, Make] = {
    "rope": made("rope"),
    "rope, interleaved, partial": made("rope", style="interleaved", rotary_dim=6, causal=True),
    "rope, linear": made("rope", scaling=Linear(4.0)),
    "rope, YaRN": made("rope", scaling=YaRN(4.0, trained=8)),
    "rope, Llama 3": made("rope", scaling=Llama3(4.0, trained=8)),
    "alibi": made("alibi"),
    "alibi, causal": made("alibi", causal=True),
    "t5": made("t5", num_buckets=8, max_distance=20),
    "t5, causal": made("t5", num_buckets=8, max_distance=20, causal=True),
    "shaw, causal, grouped": made("shaw", max_distance=3, num_kv_heads=1, causal=True),
    "sinusoidal": made("sinusoidal"),
    "learned": made("learned", max_length=40),
    "qk_norm, rms, rope": made("qk_norm", positions=RotaryPositions(8), causal=True),
    "qk_norm, l2": made("qk_norm", norm="l2"),
    "gated, elementwise": made("gated", positions=RotaryPositions(8, rotary_dim=4)),
    "gated, headwise": made("gated", gate="headwise", positions=AlibiPositions(2)),
    "differential": made("differential"),
    "differential, grouped, t5": made("differential", num_kv_heads=1, positions=T5Positions(2)),
    "differential, shaw": made("differential", positions=ShawPositions(4, 3)),
    "latent": made("latent", **LATENT, q_rank=7, value_head_dim=3, causal=True),
    "latent, no query compression": made("latent", **LATENT, style="half"),
    "latent, dynamic NTK": made("latent", **LATENT, scaling=DynamicNTK(2.0, trained=8)),
}
CASES = [
    *(pytest.param(name, make, id=name) for name, make in SAMPLE.items()),
    *(pytest.param(name, make, id=name, marks=pytest.mark.slow) for name, make in MORE.items()),
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_exported_is_the_module(name: str, make: Make, captured: Any) -> None:
    torch.manual_seed(0)
    module = make()
    for parameter in module.parameters():  # away from zeros and ones, which could hide a lost norm or bias
        nn.init.normal_(parameter, std=0.4)
    graph = captured(module, {"x": torch.randn(2, 5, 16)}, {"x": {0: "batch", 1: "sequence"}})
    cores = 2 if name.startswith("differential") else 1
    assert [site.spec for site in find_sites(graph.model)] == [module.spec] * cores
    assert unraised(graph.model) == []
    assert graph.model.graph.opset_imports == {"": 18, "edgeattn": 1}
    for length in LENGTHS:
        graph.check(batch=3, sequence=length)


def test_learned_positions_refuse_what_they_have_no_row_for(captured: Any, ort: Any) -> None:
    """The graph cannot check the length, so the runtime must refuse rather than read past the table."""
    graph = captured(create("learned", embed_dim=16, num_heads=2, max_length=8), {"x": torch.randn(1, 5, 16)}, {"x": {1: "s"}})
    with pytest.raises(Exception, match=r"8 by 9|idx=8"):
        ort(graph.model, {"x": torch.randn(1, 9, 16)})
