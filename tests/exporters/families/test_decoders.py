"""Decoders of transformers, as one uncached pass: causal, windowed, capped, with sinks; grouped and shared heads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgeattn.spec import Causal, Full, SlidingWindow, SoftmaxAttention
from tests.exporters.families.building import Family, prove_family

_COMMON: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_LOCAL = {**_GROUPED, "head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
_GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 2}
_BLOOM = {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 3}
_LIMIT = {"sequence": 40}

CAUSAL = SoftmaxAttention(4, 4, 8, mask="key_padding", pattern=Causal())
SHARED = SoftmaxAttention(4, 2, 8, mask="key_padding", pattern=Causal())
WINDOW = SoftmaxAttention(4, 2, 8, mask="key_padding", pattern=SlidingWindow(5, 0))
BOTH_SIDES = SoftmaxAttention(4, 2, 8, mask="key_padding", pattern=SlidingWindow(3, 3))
GEMMA2 = SoftmaxAttention(4, 2, 8, scale=0.25, softcap=1.5, mask="key_padding", pattern=Causal())
GEMMA2_LOCAL = SoftmaxAttention(4, 2, 8, scale=0.25, softcap=1.5, mask="key_padding", pattern=SlidingWindow(5, 0))
SINK = SoftmaxAttention(4, 2, 8, sink=True, mask="key_padding", pattern=Causal())
SINK_LOCAL = SoftmaxAttention(4, 2, 8, sink=True, mask="key_padding", pattern=SlidingWindow(5, 0))
ALIBI = SoftmaxAttention(4, 4, 8, bias=True, mask="key_padding", pattern=Causal())
ONE_KEY_HEAD = SoftmaxAttention(4, 1, 8, mask="key_padding", pattern=Causal())

FAMILIES = {
    "Llama": Family("LlamaForCausalLM", _GROUPED, [SHARED] * 2, limits=_LIMIT),
    "Llama, sequence classes": Family(
        "LlamaForSequenceClassification", {**_GROUPED, "num_labels": 3}, [SHARED] * 2, limits=_LIMIT
    ),
    "GPT-2": Family("GPT2LMHeadModel", _GPT2, [CAUSAL] * 2, limits=_LIMIT),
    "GPT-NeoX": Family("GPTNeoXForCausalLM", _COMMON, [CAUSAL] * 2, limits=_LIMIT),
    "Qwen2": Family("Qwen2ForCausalLM", _GROUPED, [SHARED] * 2, limits=_LIMIT),
    "Qwen3": Family("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 8}, [SHARED] * 2, limits=_LIMIT),
    "Mistral": Family("MistralForCausalLM", {**_GROUPED, "sliding_window": 6}, [WINDOW] * 2, limits=_LIMIT),
    "Gemma 2": Family(
        "Gemma2ForCausalLM",
        {**_LOCAL, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 1.5},
        [GEMMA2_LOCAL, GEMMA2],
        limits=_LIMIT,
    ),
    "Gemma 3": Family("Gemma3ForCausalLM", {**_LOCAL, "query_pre_attn_scalar": 8}, [WINDOW, SHARED], limits=_LIMIT),
    "Gemma 3, seeing both sides": Family(
        "Gemma3TextModel",
        {**_LOCAL, "query_pre_attn_scalar": 8, "use_bidirectional_attention": True},
        [BOTH_SIDES, dataclasses.replace(SHARED, pattern=Full())],
        outputs=["last_hidden_state"],
        limits=_LIMIT,
    ),
    "GPT-OSS": Family(
        "GptOssForCausalLM",
        {**_LOCAL, "num_local_experts": 4, "num_experts_per_tok": 2},
        [SINK_LOCAL, SINK],
        limits=_LIMIT,
    ),
    "Phi": Family("PhiForCausalLM", _COMMON, [CAUSAL] * 2, limits=_LIMIT),
    "Falcon": Family("FalconForCausalLM", {**_COMMON, "bias": True}, [ONE_KEY_HEAD] * 2, limits=_LIMIT),
    "Falcon, grouped": Family(
        "FalconForCausalLM", {**_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2}, [SHARED] * 2, limits=_LIMIT
    ),
    "Falcon, ALiBi": Family(
        "FalconForCausalLM",
        {**_COMMON, "alibi": True, "multi_query": False, "max_position_embeddings": 512},
        [ALIBI] * 2,
        limits={"sequence": 512},  # beyond 256 bfloat16 no longer counts
    ),
    "BLOOM": Family("BloomForCausalLM", _BLOOM, [ALIBI] * 2),
    "Mixtral": Family(
        "MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}, [SHARED] * 2, limits=_LIMIT
    ),
    "Qwen2-MoE": Family(
        "Qwen2MoeForCausalLM",
        {
            **_GROUPED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        [SHARED] * 2,
        limits=_LIMIT,
    ),
}
QUICK = {"Llama", "Gemma 2"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def test_decoders(name: str, tmp_path: Path) -> None:
    prove_family(FAMILIES[name], tmp_path)
