"""A GGUF file of a Llama-like model: its weights, dequantized, in transformers' own module; its tokenizer with it.

The layout is that of llama.cpp: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing in the file is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.base import PADDING_INPUT, Source
from edgeattn.exporters.sources.huggingface.cached import cached_source
from edgeattn.exporters.sources.huggingface.chat import Chat
from edgeattn.exporters.sources.huggingface.folder import whole_source
from edgeattn.exporters.sources.huggingface.inputs.text import NAMES, longest, text
from edgeattn.manifest import TOKENS

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""GGUF's name -> transformers' class."""
_TOKENIZER = "tokenizer/tokenizer.json"
_FREQUENCIES = "rope_freqs.weight"
_PERMUTED = frozenset({"llama"})
"""Architectures whose query and key rows are stored in the order of interleaved rotary pairs."""

_NAMES = {
    r"token_embd": "model.embed_tokens",
    r"output_norm": "model.norm",
    r"output": "lm_head",
    r"blk\.(\d+)\.attn_norm": r"model.layers.\1.input_layernorm",
    r"blk\.(\d+)\.ffn_norm": r"model.layers.\1.post_attention_layernorm",
    r"blk\.(\d+)\.attn_output": r"model.layers.\1.self_attn.o_proj",
    r"blk\.(\d+)\.attn_([qkv])": r"model.layers.\1.self_attn.\2_proj",
    r"blk\.(\d+)\.attn_([qk])_norm": r"model.layers.\1.self_attn.\2_norm",
    r"blk\.(\d+)\.ffn_(gate|up|down)": r"model.layers.\1.mlp.\2_proj",
}


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a file holds: the model in float32, the tokenizer as the text of a tokenizer.json, how it chats."""

    model: Any
    tokenizer: str
    chat: Chat
    licence: str


def from_gguf(path: Path, cache: bool = True) -> Source:
    """The source of a GGUF file, with its key/value cache as inputs and outputs or, without `cache`, its whole pass.

    Raises:
        SourceError: as `read_gguf`.
    """
    read = read_gguf(path)
    part = text(path.parent, read.model, NAMES[:2])
    settings = {
        "file": _TOKENIZER,
        "max_length": longest(read.model),
        "inputs": {TOKENS: "ids", PADDING_INPUT: "attention_mask"},
    }
    part = replace(part, files={_TOKENIZER: read.tokenizer.encode()}, settings=settings)
    provenance = {"architecture": type(read.model).__name__, "weights": path.name, "licence": read.licence}
    if cache:
        return cached_source(read.model, path.stem, "gguf", part, provenance, read.chat)
    return whole_source(read.model, path.stem, "gguf", [part], provenance)


def read_gguf(path: Path) -> Gguf:
    """Read a file.

    Raises:
        SourceError: the package gguf or transformers is missing, the file is damaged, or its architecture is not one of
            `ARCHITECTURES`.
    """
    gguf, transformers = _packages()
    try:
        reader = gguf.GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader raises whatever numpy raises on bytes that make no sense
        raise SourceError(f"{path} is not a GGUF file, or a damaged one: {error}") from error
    kind = facts.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise SourceError(
            f"{path} holds a {kind!r} model; the GGUF architectures that are understood: {', '.join(ARCHITECTURES)}"
        )
    try:
        model = _model(transformers, kind, facts)
        _fill(model, kind, {tensor.name: tensor for tensor in reader.tensors}, gguf.dequantize)
        tokenizer = _tokenizer(facts)
    except KeyError as error:
        raise SourceError(f"{path} lacks {error}, which every {kind} file has; it is damaged or of another version") from error
    return Gguf(model.eval(), tokenizer, _chat(facts), facts.get("general.license", ""))


def _packages() -> tuple[Any, Any]:
    try:
        import gguf
        import transformers
    except ImportError as error:
        raise SourceError(
            f'a GGUF file needs the packages gguf and transformers ({error}); fix: pip install "edgeattn[gguf]"'
        ) from error
    return gguf, transformers


def _model(transformers: Any, kind: str, facts: Mapping[str, Any]) -> Any:
    heads = facts[f"{kind}.attention.head_count"]
    width = facts[f"{kind}.embedding_length"]
    scaling = facts.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise SourceError(
            f"the GGUF file scales its rotary positions ({scaling}), which is not understood; take the model's Hugging Face folder instead"
        )
    cls = getattr(transformers, ARCHITECTURES[kind])
    config = cls.config_class(
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=facts[f"{kind}.feed_forward_length"],
        num_hidden_layers=facts[f"{kind}.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=facts.get(f"{kind}.attention.head_count_kv", heads),
        head_dim=facts.get(f"{kind}.attention.key_length", width // heads),
        max_position_embeddings=facts[f"{kind}.context_length"],
        rms_norm_eps=facts[f"{kind}.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": facts.get(f"{kind}.rope.freq_base", 10000.0)},
        bos_token_id=facts.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=facts.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=facts.get("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return cls(config)


def _fill(model: Any, kind: str, tensors: Mapping[str, Any], dequantize: Callable[..., Any]) -> None:
    """Every parameter from its tensor. Raises SourceError where the two do not agree."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name == _FREQUENCIES:
            _check_frequencies(dequantize(tensor.data, tensor.tensor_type))
            continue
        stem, _, suffix = name.rpartition(".")
        target = f"{_target(stem)}.{suffix}"
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if kind in _PERMUTED and target.endswith(("q_proj.weight", "k_proj.weight")):
            value = _halves(value, model.config.head_dim)
        state[target] = value
    tied = "lm_head.weight" not in state
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.config.tie_word_embeddings = tied
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise SourceError(f"the tensors of the GGUF file do not fit a {type(model).__name__}: {error}") from error
    # rotary frequencies are computed, not stored
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def _check_frequencies(factors: NDArray[Any]) -> None:
    """Raise SourceError unless each rotary frequency is multiplied by 1."""
    if bool((factors != 1).any()):
        raise SourceError(
            f"the GGUF file rescales its rotary frequencies ({_FREQUENCIES}), which is not understood; take the model's Hugging "
            "Face folder instead"
        )


def _target(stem: str) -> str:
    for pattern, target in _NAMES.items():
        if match := re.fullmatch(pattern, stem):
            return match.expand(target)
    raise SourceError(f"nothing is known about the GGUF tensor {stem!r}")


def _halves(rows: torch.Tensor, size: int) -> torch.Tensor:
    """(H D, C) with the rows of each head as interleaved pairs -> the same as halves, as transformers rotates them."""
    return rows.reshape(-1, size // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _chat(facts: Mapping[str, Any]) -> Chat:
    """The template, and the special tokens it may write."""
    tokens = facts["tokenizer.ggml.tokens"]
    ids = {f"{name}_token": facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return Chat(facts.get("tokenizer.chat_template", ""), {name: tokens[i] for name, i in ids.items() if i is not None})


def _tokenizer(facts: Mapping[str, Any]) -> str:
    """The text of a tokenizer.json. Raises SourceError for another kind than byte-level BPE."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    kind, before = facts["tokenizer.ggml.model"], facts.get("tokenizer.ggml.pre", "default")
    splits: dict[str, list[Any]] = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(_QWEN), "isolated")],
        "default": [],
    }
    if kind != "gpt2" or before not in splits:
        raise SourceError(
            f"the GGUF file has a tokenizer of kind {kind!r} ({before}); understood: gpt2 with {', '.join(splits)}"
        )
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    ends = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=before != "qwen2")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits[before], ends])
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(token, special=True)
        for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
        if kind == 3
    ]
    tokenizer.add_special_tokens(special)
    return str(tokenizer.to_str())


_QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 splits text before its merges."""
