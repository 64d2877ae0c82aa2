"""Each position scheme against code that others have released, and what is particular about it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn.errors import SpecError, UsageError
from edgeattn.models.positions.alibi import AlibiPositions, alibi_slopes
from edgeattn.models.positions.base import Positions, distances
from edgeattn.models.positions.frequencies import DynamicNTK, Linear, Llama3, Scaling, YaRN
from edgeattn.models.positions.learned import LearnedPositions
from edgeattn.models.positions.rope import RotaryPositions, Style
from edgeattn.models.positions.shaw import ShawPositions
from edgeattn.models.positions.sinusoidal import SinusoidalPositions
from edgeattn.models.positions.t5 import T5Positions, bucket_of


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def heads(queries: int, keys: int, head_dim: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, queries, head_dim), torch.randn(2, 2, keys, head_dim)


def llama(q: Tensor, k: Tensor, base: float = 10000.0, **scaling: Any) -> tuple[Tensor, Tensor]:
    """Rotary positions of transformers' Llama."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    parameters = {"rope_type": "default", "rope_theta": base, **scaling}
    config = LlamaConfig(head_dim=q.shape[-1], max_position_embeddings=16, rope_parameters=parameters)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(q.shape[2])[None])
    turned: tuple[Tensor, Tensor] = apply_rotary_pos_emb(q, k, cos, sin)
    return turned


SCALINGS: list[tuple[Scaling | None, dict[str, Any]]] = [
    (None, {}),
    (Linear(4.0), {"rope_type": "linear", "factor": 4.0}),
    (DynamicNTK(3.0, trained=16), {"rope_type": "dynamic", "factor": 3.0}),
    (YaRN(4.0, trained=16, fast=2.0, slow=0.5), {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.5}),
    (YaRN(16.0, trained=16), {"rope_type": "yarn", "factor": 16.0}),
    (YaRN(8.0, trained=16, attention_factor=1.0), {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.0}),
    (YaRN(8.0, trained=16, whole_steps=False), {"rope_type": "yarn", "factor": 8.0, "truncate": False}),
    (
        Llama3(8.0, trained=16, slow=1.0, fast=4.0),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
]


@pytest.mark.parametrize("length", [1, 16, 333])
@pytest.mark.parametrize(("scaling", "parameters"), SCALINGS, ids=lambda x: type(x).__name__)
def test_rope_is_that_of_llama(scaling: Scaling | None, parameters: dict[str, Any], length: int) -> None:
    """Lengths below, at and above the trained 16: DynamicNTK changes at the last only."""
    q, k = heads(length, length, 20)
    given = parameters | ({"original_max_position_embeddings": 16} if parameters else {})
    expected = llama(q, k, base=500.0, **given)
    got = RotaryPositions(20, base=500.0, scaling=scaling).rotate(q, k)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_every_scaling_differs_beyond_the_trained_length() -> None:
    q, k = heads(40, 40, 20)
    results = [RotaryPositions(20, base=500.0, scaling=scaling).rotate(q, k)[0] for scaling, _ in SCALINGS]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize("rotary_dim", [4, 8])
def test_interleaved_rope_is_that_of_gptj(rotary_dim: int) -> None:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    q, k = heads(9, 9)
    sin, cos = create_sinusoidal_positions(9, rotary_dim)[None].chunk(2, dim=-1)
    got = RotaryPositions(8, rotary_dim=rotary_dim, style="interleaved").rotate(q, k)
    for x, turned in zip((q, k), got, strict=True):
        expected = apply_rotary_pos_emb(x[..., :rotary_dim].transpose(1, 2), sin, cos).transpose(1, 2)
        torch.testing.assert_close(turned, torch.cat([expected, x[..., rotary_dim:]], dim=-1), rtol=0, atol=1e-5)


def test_partial_rope_is_that_of_gpt_neox() -> None:
    """The first rotary_dim numbers of a head turn as a head of that size would, the others stay."""
    q, k = heads(9, 9)
    got = RotaryPositions(8, rotary_dim=6).rotate(q, k)
    for x, turned, whole in zip((q, k), got, llama(q[..., :6], k[..., :6]), strict=True):
        torch.testing.assert_close(turned, torch.cat([whole, x[..., 6:]], dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rope_scores_depend_on_the_distance_alone(style: Style) -> None:
    rope = RotaryPositions(8, style=style)
    q, k = (torch.randn(1, 1, 1, 8).expand(1, 1, 12, 8) for _ in range(2))
    q, k = rope.rotate(q, k)
    scores = (q @ k.transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=1e-5)
    assert not torch.allclose(scores[0], scores[1])


def test_rope_takes_positions_that_do_not_start_at_zero() -> None:
    """A step of decoding: one query at position 5 of a sequence whose keys were turned before."""
    rope = RotaryPositions(8)
    q, k = heads(6, 6)
    whole, _ = rope.rotate(q, k)
    torch.testing.assert_close(rope.turn(q[:, :, 5:], *rope.waves(torch.tensor([5]))), whole[:, :, 5:])


def test_half_precision_keeps_the_frequencies() -> None:
    """Rounded to bfloat16 before they multiply a position of 1000, they would turn by radians too much."""
    late = torch.tensor([1000])
    exact, rounded = (module.waves(late) for module in (RotaryPositions(8), RotaryPositions(8).bfloat16()))
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0)
    q, k = (x.bfloat16() for x in heads(5, 5))
    assert {x.dtype for x in RotaryPositions(8).bfloat16().rotate(q, k)} == {torch.bfloat16}


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 8, 12, 16, 20])
def test_alibi_is_that_of_bloom(num_heads: int) -> None:
    """Bloom's rows differ from ours by a constant for each query, which a softmax does not see."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    x = torch.zeros(1, num_heads, 7, 2)
    bias = AlibiPositions(num_heads).bias(x, x, 1.0)
    theirs = build_alibi_tensor(torch.ones(1, 7), num_heads, torch.float32)[None, :, 0]
    for i in range(7):
        seen = slice(0, i + 1)
        expected = theirs[..., seen] - theirs[..., i, None]
        torch.testing.assert_close(bias[:, :, i, seen], expected, rtol=1e-5, atol=1e-6)


def test_alibi_slopes_of_the_paper() -> None:
    assert alibi_slopes(8) == tuple(2.0**-h for h in range(1, 9))
    assert len(set(alibi_slopes(12))) == 12
    assert alibi_slopes(12)[:8] == alibi_slopes(8)


def test_alibi_without_a_causal_pattern_is_symmetric() -> None:
    x = torch.zeros(1, 4, 5, 2)
    bias = AlibiPositions(4).bias(x, x, 1.0)
    torch.testing.assert_close(bias, bias.transpose(-1, -2), rtol=0, atol=0)
    assert (bias.diagonal(dim1=-2, dim2=-1) == 0).all()
    assert (bias[..., 0, 1:] < bias[..., 0, :-1]).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (6, 50)])
def test_t5_bias_is_that_of_t5(causal: bool, num_buckets: int, max_distance: int) -> None:
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(
        d_model=8,
        num_heads=4,
        d_kv=2,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
        is_decoder=causal,
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = T5Positions(4, num_buckets=num_buckets, max_distance=max_distance, causal=causal)
    ours.table.weight = theirs.relative_attention_bias.weight
    for queries, keys in ((1, 1), (7, 7), (5, 9), (333, 333)):
        got = ours.bias(torch.zeros(1, 4, queries, 2), torch.zeros(1, 4, keys, 2), 1.0)
        torch.testing.assert_close(got, theirs.compute_bias(queries, keys), rtol=0, atol=0)
    reach = torch.arange(-500, 501)
    assert len(set(bucket_of(reach, num_buckets, max_distance, causal).tolist())) > num_buckets // 2


def test_shaw_bias_is_that_of_wav2vec2_bert() -> None:
    from transformers import Wav2Vec2BertConfig
    from transformers.models.wav2vec2_bert import modeling_wav2vec2_bert as wav2vec2

    config = Wav2Vec2BertConfig(
        hidden_size=32,
        num_attention_heads=4,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=3,
        right_max_position_embeddings=3,
    )
    theirs = wav2vec2.Wav2Vec2BertSelfAttention(config)
    ours = ShawPositions(8, max_distance=3)
    ours.table.weight = theirs.distance_embedding.weight
    q = torch.randn(2, 4, 9, 8)
    _, expected = wav2vec2._apply_relative_key_position_encoding(theirs, q, q)
    torch.testing.assert_close(ours.bias(q, q, 1 / math.sqrt(8)), expected, rtol=1e-5, atol=1e-6)


def test_shaw_bias_by_its_equation() -> None:
    shaw = ShawPositions(8, max_distance=2)
    q, k = heads(4, 6)
    got = shaw.bias(q, k, 0.3)
    for i in range(4):
        for j in range(6):
            key = shaw.table.weight[max(-2, min(2, j - i)) + 2]
            torch.testing.assert_close(got[:, :, i, j], 0.3 * q[:, :, i] @ key)


def test_sinusoidal_in_halves_is_that_of_marian() -> None:
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    expected = MarianSinusoidalPositionalEmbedding(333, 12).create_weight()
    torch.testing.assert_close(SinusoidalPositions(12, layout="half").table(333), expected, rtol=0, atol=5e-5)


def test_sinusoidal_by_the_formula_of_the_paper() -> None:
    table = SinusoidalPositions(6).table(9)
    for i in range(9):
        for c in range(3):
            angle = i / 10000 ** (2 * c / 6)
            assert table[i, 2 * c].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[i, 2 * c + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_learned_adds_its_rows() -> None:
    learned = LearnedPositions(6, max_length=5)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(learned.embed(x) - x, learned.table.weight[:3].expand(2, 3, 6))
    with pytest.raises(UsageError, match="6 positions, but max_length is 5"):
        learned.embed(torch.randn(1, 6, 6))


@pytest.mark.parametrize(
    "scheme",
    [RotaryPositions(8), AlibiPositions(4), T5Positions(4), ShawPositions(8), SinusoidalPositions(8), LearnedPositions(8, 9)],
)
def test_a_scheme_enters_in_one_place(scheme: Positions) -> None:
    x = torch.randn(2, 5, 8)
    q, k = heads(5, 5)
    embeds = not torch.equal(scheme.embed(x), x)
    rotates = not torch.equal(scheme.rotate(q, k)[0], q)
    assert embeds + rotates + scheme.biased == 1
    if scheme.biased:
        assert scheme.bias(q, k, 1.0).shape[-3:] == (4, 5, 5)
    else:
        with pytest.raises(NotImplementedError, match=f"{type(scheme).__name__} adds nothing to the scores"):
            scheme.bias(q, k, 1.0)


def test_distances_count_from_the_query_to_the_key() -> None:
    q, k = heads(2, 3)
    assert distances(q, k).tolist() == [[0, 1, 2], [-1, 0, 1]]


def test_learned_tables_are_trained() -> None:
    q, k = heads(5, 5)
    for scheme in (T5Positions(4), ShawPositions(8)):
        scheme.bias(q, k, 1.0).square().sum().backward()  # type: ignore[no-untyped-call]
        assert scheme.table.weight.grad is not None
        assert scheme.table.weight.grad.abs().sum() > 0
    assert not list(nn.ModuleList([RotaryPositions(8), AlibiPositions(4), SinusoidalPositions(8)]).state_dict())


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match=r"rotary_dim must be even and at most head_dim \(8\), got 10"):
        RotaryPositions(8, rotary_dim=10)
    with pytest.raises(UsageError, match=r"rotary_dim must be even and at most head_dim \(7\), got 7"):
        RotaryPositions(7)
    with pytest.raises(SpecError, match="style must be one of half, interleaved, got 'neox'"):
        RotaryPositions(8, style="neox")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a rotary_dim of 4 or more, got 2"):
        RotaryPositions(2, scaling=DynamicNTK(2.0, trained=16))
    with pytest.raises(UsageError, match=r"expected at least 1, got 0.5"):
        Linear(0.5)
    with pytest.raises(SpecError, match="trained must be a whole number >= 1, got 0"):
        YaRN(2.0, trained=0)
    with pytest.raises(UsageError, match="embed_dim must be even, half sines and half cosines, got 7"):
        SinusoidalPositions(7)
    with pytest.raises(SpecError, match="layout must be one of interleaved, half, got 'split'"):
        SinusoidalPositions(8, layout="split")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"num_buckets must be at least 4, .*; got num_buckets 2 and max_distance 128"):
        T5Positions(4, num_buckets=2)
    with pytest.raises(UsageError, match="max_distance above the 8 distances"):
        T5Positions(4, max_distance=8)
