"""Attention with positions, and attention composed of more than a core: by formula and by perturbation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from edgeattn.errors import SpecError, UsageError
from edgeattn.models import create
from edgeattn.models.attention.alibi import AlibiAttention
from edgeattn.models.attention.differential import DifferentialAttention
from edgeattn.models.attention.gated import GatedAttention
from edgeattn.models.attention.latent import LatentAttention
from edgeattn.models.attention.positioned import PositionedAttention
from edgeattn.models.attention.qk_norm import QueryKeyNormAttention
from edgeattn.models.attention.rope import RotaryAttention
from edgeattn.models.attention.shaw import ShawAttention
from edgeattn.models.positions.alibi import AlibiPositions, alibi_slopes
from edgeattn.models.positions.base import Positions
from edgeattn.models.positions.learned import LearnedPositions
from edgeattn.models.positions.rope import RotaryPositions
from edgeattn.models.positions.shaw import ShawPositions
from edgeattn.models.positions.t5 import T5Positions
from edgeattn.spec import Causal, SlidingWindow

OPTIONS: dict[str, dict[str, Any]] = {
    "rope": {"embed_dim": 16, "num_heads": 4, "num_kv_heads": 2},
    "alibi": {"embed_dim": 12, "num_heads": 3},
    "t5": {"embed_dim": 12, "num_heads": 3, "num_buckets": 8, "max_distance": 9},
    "shaw": {"embed_dim": 12, "num_heads": 3, "max_distance": 2},
    "sinusoidal": {"embed_dim": 12, "num_heads": 3},
    "learned": {"embed_dim": 12, "num_heads": 3, "max_length": 9},
    "qk_norm": {"embed_dim": 16, "num_heads": 4, "num_kv_heads": 2},
    "gated": {"embed_dim": 16, "num_heads": 4, "num_kv_heads": 2},
    "differential": {"embed_dim": 16, "num_heads": 2},
    "latent": {"embed_dim": 16, "num_heads": 2, "head_dim": 6, "kv_rank": 5, "q_rank": 7, "rope_dim": 4, "value_head_dim": 3},
}
PLACED = ("rope", "alibi", "t5", "shaw", "sinusoidal", "learned", "latent")
"""Those that know positions without being told."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(OPTIONS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str, **options: Any) -> tuple[nn.Module, Tensor]:
    module = create(name, **OPTIONS[name], **options)
    return module, torch.randn(2, 6, OPTIONS[name]["embed_dim"])


@pytest.mark.parametrize("causal", [False, True])
def test_who_sees_whom_by_perturbation(name: str, causal: bool) -> None:
    module, x = make(name, causal=causal)
    base = module(x)
    for j in range(6):
        changed = x.clone()
        changed[:, j] += 1
        moved = ((module(changed) - base).abs() > 1e-7).any(dim=2).all(dim=0)
        assert moved.tolist() == [i >= j or not causal for i in range(6)]


def test_every_parameter_is_trained(name: str) -> None:
    module, x = make(name, causal=True)
    module(x).square().sum().backward()
    for parameter, value in module.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        # A softmax does not see what all keys share: the bias of the keys has no gradient, beyond rounding.
        if name in ("rope", "qk_norm") or not parameter.startswith(("k_proj.bias", "k2_proj.bias")):
            assert value.grad.abs().max() > 1e-6, parameter


def test_order_counts_where_positions_are_known(name: str) -> None:
    """Turned back after the sequence was reversed, the result is the same only if nothing knows positions."""
    module, x = make(name)
    same = torch.allclose(module(x.flip(1)).flip(1), module(x), atol=1e-6)
    # Distances to both sides count alike here, so a reversed sequence is as good.
    assert same == (name not in PLACED or name == "alibi")


def test_a_bias_of_the_caller_is_added(name: str) -> None:
    module, x = make(name, score_bias=True)
    plain = create(name, **OPTIONS[name])
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x, score_bias=torch.zeros(6, 6)), plain(x))
    assert not torch.allclose(module(x, score_bias=torch.randn(6, 6)), plain(x), atol=1e-3)


def test_a_bias_that_was_not_agreed_on() -> None:
    module, x = make("alibi")
    with pytest.raises(UsageError, match="score_bias was given, but the module was made with score_bias=False"):
        module(x, score_bias=torch.zeros(6, 6))
    module, x = make("alibi", score_bias=True)
    with pytest.raises(UsageError, match="score_bias was left out, but the module was made with score_bias=True"):
        module(x)


@pytest.mark.parametrize(
    "positions",
    [RotaryPositions(4), AlibiPositions(4), T5Positions(4, causal=True), ShawPositions(4, 2), LearnedPositions(16, 9)],
)
@pytest.mark.parametrize("name", ["qk_norm", "gated", "differential"])
def test_compositions_take_positions(name: str, positions: Positions) -> None:
    options = {"embed_dim": 16, "num_heads": 4, "head_dim": 4}
    module = create(name, **options, positions=positions, causal=True)
    x = torch.randn(2, 6, 16)
    plain = create(name, **options, causal=True)
    plain.load_state_dict(module.state_dict(), strict=False)
    assert not torch.allclose(module(x), plain(x), atol=1e-4)


def test_patterns_go_with_positions() -> None:
    """ALiBi over a window, by formula."""
    module = AlibiAttention(12, 3, pattern=SlidingWindow(2, 0))
    x = torch.randn(2, 6, 12)
    q, k, v = module.project(x, x, x)
    distance = torch.arange(6)[:, None] - torch.arange(6)
    scores = q @ k.transpose(-1, -2) / 2 - torch.tensor(alibi_slopes(3))[:, None, None] * distance
    weights = scores.masked_fill((distance < 0) | (distance > 2), -torch.inf).softmax(-1)
    torch.testing.assert_close(module(x), module.join(weights @ v))


def test_causal_and_a_pattern_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="leave out one of causal and pattern"):
        RotaryAttention(16, 2, causal=True, pattern=Causal())


X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))


def test_l2_qk_norm_by_its_formula() -> None:
    ours = QueryKeyNormAttention(24, 4, norm="l2", usual_length=100)
    assert ours.q_norm.factor.item() == pytest.approx(math.log2(100 * 99))  # type: ignore[operator]
    split = [p(X).unflatten(-1, (4, 6)).transpose(1, 2) for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
    q, k = (x / x.pow(2).sum(-1, keepdim=True).sqrt() for x in split[:2])
    weights = (math.log2(100 * 99) * q @ k.transpose(-1, -2)).softmax(-1)
    torch.testing.assert_close(ours(X), ours.out_proj((weights @ split[2]).transpose(1, 2).flatten(2)))


def test_headwise_gate_scales_whole_heads() -> None:
    ours = GatedAttention(24, 4, gate="headwise")
    context = ours.core(*ours.project(X, X, X))
    gates = torch.sigmoid(F.linear(X, ours.gate_proj.weight, ours.gate_proj.bias))  # (B, S, H)
    heads = [context[:, h] * gates[..., h, None] for h in range(4)]
    torch.testing.assert_close(ours(X), ours.out_proj(torch.cat(heads, dim=-1)))


def test_differential_starts_where_the_paper_says() -> None:
    assert DifferentialAttention(16, 2).lambda_init == pytest.approx(0.2)
    assert DifferentialAttention(16, 2, layer=4).lambda_init == pytest.approx(0.8 - 0.6 * math.exp(-0.9))
    assert DifferentialAttention(16, 2).spec.summary() == "2 heads x 4/8"


def test_latent_keys_share_their_positions() -> None:
    ours = LatentAttention(24, 4, head_dim=6, kv_rank=7, rope_dim=4)
    _, k, v = ours.project(X)
    assert (k[:, :1, :, 6:] == k[:, :, :, 6:]).all()
    assert not torch.equal(k[:, 0, :, :6], k[:, 1, :, :6])
    assert v.shape == (2, 4, 9, 6)


def test_specs_say_what_was_asked_for() -> None:
    assert ShawAttention(12, 3).spec.bias
    assert not RotaryAttention(12, 3).spec.bias
    assert PositionedAttention(12, 3, causal=True).spec.pattern == Causal()
    assert QueryKeyNormAttention(12, 3, norm="l2").spec.scale == 1.0
    assert QueryKeyNormAttention(12, 3, norm="l2", scale=0.5).spec.scale == 0.5
    assert create("latent", **OPTIONS["latent"]).spec.summary() == "2 heads x 10/3"  # type: ignore[union-attr, operator]


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(SpecError, match="norm must be one of rms, l2, got 'layer'"):
        QueryKeyNormAttention(12, 3, norm="layer")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="gate must be one of elementwise, headwise, got 'none'"):
        GatedAttention(12, 3, gate="none")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="layer must be a whole number >= 1, got 0"):
        DifferentialAttention(16, 2, layer=0)
    with pytest.raises(SpecError, match="kv_rank must be a whole number >= 1, got 0"):
        LatentAttention(16, 2, head_dim=4, kv_rank=0, rope_dim=2)
    with pytest.raises(UsageError, match="rotary_dim must be even and at most head_dim"):
        LatentAttention(16, 2, head_dim=4, kv_rank=3, rope_dim=3)
    with pytest.raises(UsageError, match=r"x must be \(batch, length, 16\), got sizes \(2, 9, 24\)"):
        LatentAttention(16, 2, head_dim=4, kv_rank=3, rope_dim=2)(X)
