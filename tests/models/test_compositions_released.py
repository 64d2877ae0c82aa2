"""Attention with positions and compositions against transformers' modules of the models that introduced or use them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn.models.attention.differential import DifferentialAttention
from edgeattn.models.attention.gated import GatedAttention
from edgeattn.models.attention.latent import LatentAttention
from edgeattn.models.attention.qk_norm import QueryKeyNormAttention
from edgeattn.models.attention.rope import RotaryAttention
from edgeattn.models.attention.t5 import T5Attention
from edgeattn.models.positions.frequencies import YaRN
from edgeattn.models.positions.rope import RotaryPositions

X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
HEADS = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
    "attention_dropout": 0.0,
}
PROJECTIONS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"}


def rotary(config: Any, rotary_embedding: Any) -> tuple[Tensor, Tensor]:
    waves: tuple[Tensor, Tensor] = rotary_embedding(config)(X, torch.arange(9)[None])
    return waves


def prepared(theirs: nn.Module) -> nn.Module:
    """Every parameter random, so that norms and biases that start at one or zero cannot hide; causal by itself."""
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4)
    theirs.config._attn_implementation = "sdpa"  # type: ignore[union-attr]
    return theirs.eval()


def copy(ours: nn.Module, theirs: nn.Module, **names: str) -> None:
    """Weights of their submodules into ours: our name=theirs."""
    for mine, other in names.items():
        ours.get_submodule(mine).load_state_dict(theirs.get_submodule(other).state_dict())


def test_rope_is_llama_attention() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as llama

    config = LlamaConfig(**HEADS, head_dim=8)
    theirs = prepared(llama.LlamaAttention(config, 0))
    ours = RotaryAttention(24, 4, num_kv_heads=2, head_dim=8, causal=True)
    copy(ours, theirs, **PROJECTIONS)
    expected, _ = theirs(X, rotary(config, llama.LlamaRotaryEmbedding), None)
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_t5_is_t5_attention(causal: bool) -> None:
    from transformers import T5Config
    from transformers.models.t5 import modeling_t5 as t5

    config = T5Config(
        d_model=24,
        num_heads=4,
        d_kv=5,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=7,
        is_decoder=causal,
        dropout_rate=0.0,
    )
    theirs = prepared(t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0))
    ours = T5Attention(24, 4, head_dim=5, num_buckets=8, max_distance=7, causal=causal, scale=1.0, bias=False)
    copy(ours, theirs, q_proj="q", k_proj="k", v_proj="v", out_proj="o")
    ours.positions.load_state_dict({"table.weight": theirs.relative_attention_bias.weight})  # type: ignore[union-attr]
    mask = torch.zeros(1, 1, 9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf) if causal else None
    expected = theirs(X, mask=mask)[0]
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)


def test_rms_qk_norm_is_qwen3_attention() -> None:
    from transformers import Qwen3Config
    from transformers.models.qwen3 import modeling_qwen3 as qwen3

    config = Qwen3Config(**HEADS, head_dim=8)
    theirs = prepared(qwen3.Qwen3Attention(config, 0))
    ours = QueryKeyNormAttention(24, 4, num_kv_heads=2, head_dim=8, positions=RotaryPositions(8), causal=True)
    copy(ours, theirs, **PROJECTIONS, q_norm="q_norm", k_norm="k_norm")
    expected, _ = theirs(X, rotary(config, qwen3.Qwen3RotaryEmbedding), None)
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)


def test_elementwise_gate_is_qwen3_next_attention() -> None:
    """Without its norms of q and k: those are tested above."""
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    config = Qwen3NextConfig(**HEADS, head_dim=8, partial_rotary_factor=0.5)
    theirs = prepared(qwen.Qwen3NextAttention(config, 0))
    theirs.q_norm, theirs.k_norm = nn.Identity(), nn.Identity()
    positions = RotaryPositions(8, rotary_dim=4, base=config.rope_parameters["rope_theta"])
    ours = GatedAttention(24, 4, num_kv_heads=2, head_dim=8, positions=positions, causal=True)
    copy(ours, theirs, k_proj="k_proj", v_proj="v_proj", out_proj="o_proj")
    for kind, both in theirs.q_proj.state_dict().items():  # type: ignore[union-attr]
        q, gate = both.unflatten(0, (4, 2, 8)).unbind(1)
        ours.q_proj.load_state_dict({kind: q.flatten(0, 1)}, strict=False)
        ours.gate_proj.load_state_dict({kind: gate.flatten(0, 1)}, strict=False)
    expected, _ = theirs(X, rotary(config, qwen.Qwen3NextRotaryEmbedding), None)
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)


def test_differential_is_diff_llama_attention() -> None:
    """Their heads are pairs (h, h + half): the first of each makes the signal, and a value head is a pair of theirs."""
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama import modeling_diffllama as diff

    sizes = {**HEADS, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = DiffLlamaConfig(**sizes, head_dim=6)
    theirs = prepared(diff.DiffLlamaAttention(config, layer_idx=3))
    ours = DifferentialAttention(
        24, 4, num_kv_heads=2, head_dim=6, layer=4, positions=RotaryPositions(6), causal=True, eps=config.rms_norm_eps
    )
    for part in ("q", "k"):
        for kind, both in theirs.get_submodule(f"{part}_proj").state_dict().items():
            first, second = both.chunk(2)
            ours.get_submodule(f"{part}_proj").load_state_dict({kind: first}, strict=False)
            ours.get_submodule(f"{part}2_proj").load_state_dict({kind: second}, strict=False)
    for kind, both in theirs.get_submodule("v_proj").state_dict().items():
        pairs = both.unflatten(0, (2, 2, 6)).transpose(0, 1).flatten(0, 2)
        ours.v_proj.load_state_dict({kind: pairs}, strict=False)
    copy(ours, theirs, out_proj="o_proj")
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k.startswith("lambda")}, strict=False)
    expected, _ = theirs(X, rotary(config, diff.DiffLlamaRotaryEmbedding), None)
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("q_rank", [0, 10])
@pytest.mark.parametrize("yarn", [False, True])
def test_latent_is_deepseek_v2_attention(q_rank: int, yarn: bool) -> None:
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek

    scaled = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.7, "original_max_position_embeddings": 16}
    config = DeepseekV2Config(
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_bias=True,
        q_lora_rank=q_rank or None,
        kv_lora_rank=8,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=5,
        head_dim=4,
        rope_parameters={"rope_theta": 10000.0, **(scaled if yarn else {"rope_type": "default"})},
    )
    theirs = prepared(deepseek.DeepseekV2Attention(config, 0))
    ours = LatentAttention(
        24,
        4,
        head_dim=6,
        kv_rank=8,
        q_rank=q_rank,
        rope_dim=4,
        value_head_dim=5,
        scaling=YaRN(4.0, trained=16, attention_factor=1.0) if yarn else None,
        scale=(0.1 * 0.7 * math.log(4.0) + 1) ** 2 / math.sqrt(10) if yarn else 0.0,
        causal=True,
        bias=True,
    )
    names = {"kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_up": "kv_b_proj", "out_proj": "o_proj"}
    queries = {"q_down.0": "q_a_proj", "q_down.1": "q_a_layernorm", "q_up": "q_b_proj"} if q_rank else {"q_up": "q_proj"}
    copy(ours, theirs, **names, **queries)
    waves = deepseek.DeepseekV2RotaryEmbedding(config)(X, torch.arange(9)[None])
    expected, _ = theirs(X, None, None, waves)
    torch.testing.assert_close(ours(X), expected, rtol=1e-5, atol=1e-5)
