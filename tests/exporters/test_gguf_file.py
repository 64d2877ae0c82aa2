"""GGUF files: the model they hold is the one they were written from, and what is no such file is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.gguf_file import ARCHITECTURES, read_gguf
from edgeattn.exporters.sources.resolve import resolve

Array = NDArray[np.float32]
HEADS, KEYS, SIZE, WIDTH, HIDDEN, LAYERS = 4, 2, 8, 32, 48, 2
TOKENS = ["<end>", "a", "b", "ab", "Ġa", "Ġ"]
MERGES = ["a b", "Ġ a"]


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, ARCHITECTURES[kind])
    config = cls.config_class(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        head_dim=SIZE,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=False,
    )
    return cls(config).eval()


def _pairs(weight: Array, heads: int) -> Array:
    """The order in which llama.cpp's converter stores the query and key rows of Llama."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _write(path: Path, kind: str, model: Any, change: Callable[[Any], None] | None = None) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_key_length(SIZE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    if change:
        change(writer)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
    names |= {
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
    }
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers.": "blk."}
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        if kind == "llama" and ("q_proj.weight" in name or "k_proj.weight" in name):
            value = _pairs(value, HEADS if "q_proj" in name else KEYS)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_a_file_holds_the_model_it_was_written_from(kind: str, tmp_path: Path) -> None:
    model = _model(kind)
    read = read_gguf(_write(tmp_path / "model.gguf", kind, model))
    tokens = torch.tensor([[1, 2, 3, 4, 5, 0, 1, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(read.model(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)


def test_the_tokenizer_merges_and_knows_its_special_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_gguf(_write(tmp_path / "model.gguf", "llama", _model("llama"))).tokenizer)
    assert tokenizer.encode("ab a<end>").ids == [3, 4, 0]
    assert tokenizer.decode([3, 4, 0]) == "ab a"


def test_a_source_has_a_cache_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    path = _write(tmp_path / "model.gguf", "llama", _model("llama"))
    assert "past_key_values.1.value" in resolve(str(path)).inputs
    plain = resolve(str(path), cache=False)
    assert list(plain.inputs) == ["input_ids", "attention_mask"]
    assert set(plain.files) == {"tokenizer/tokenizer.json"}


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(SourceError, match=r"model\.gguf is not a GGUF file, or a damaged one"):
        resolve(str(tmp_path / "model.gguf"))


def test_an_architecture_that_is_not_understood(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        SourceError, match="holds a 'mamba' model; the GGUF architectures that are understood: llama, qwen2, qwen3"
    ):
        resolve(str(path))


def test_a_tokenizer_that_is_not_understood(tmp_path: Path) -> None:
    path = _write(tmp_path / "model.gguf", "llama", _model("llama"), lambda writer: writer.add_tokenizer_pre("strange"))
    with pytest.raises(SourceError, match=r"a tokenizer of kind 'gpt2' \(strange\); understood"):
        resolve(str(path))


def _rescaled(writer: Any) -> None:
    writer.add_tensor("rope_freqs.weight", np.array([1, 1, 8, 8], np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN), r"scales its rotary positions \(yarn\)"),
        (_rescaled, r"rescales its rotary frequencies \(rope_freqs\.weight\)"),
    ],
)
def test_rotary_positions_that_would_be_others(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        resolve(str(_write(tmp_path / "model.gguf", "llama", _model("llama"), change)))


def test_tensors_of_another_shape(tmp_path: Path) -> None:
    model = _model("llama")
    model.model.norm.weight = torch.nn.Parameter(torch.ones(WIDTH + 1))
    with pytest.raises(SourceError, match="do not fit a LlamaForCausalLM"):
        resolve(str(_write(tmp_path / "model.gguf", "llama", model)))
