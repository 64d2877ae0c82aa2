"""A small language model with a cache: windowed attention over grouped heads, with a tokenizer and a chat template."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.bundle.writing import seal

RUNTIMES = ("onnxruntime", "openvino")
TEXT = ["The cat sat on the mat, and the dog sat on the cat.", "Ünïcödé täxt: 日本語", "user assistant system"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
WINDOW, CAPACITY = 6, 96


@dataclass(frozen=True)
class Small:
    """The model in PyTorch, and its bundle."""

    model: Any
    bundle: Path

    def logits(self, tokens: torch.Tensor) -> Any:
        """The whole uncached pass, (B, S, V)."""
        with torch.inference_mode():
            return self.model(tokens, use_cache=False).logits.numpy()

    def greedy(self, tokens: torch.Tensor, count: int) -> list[int]:
        """What transformers itself generates after one prompt, (1, S)."""
        with torch.inference_mode():
            ids = self.model.generate(tokens, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
        return [int(token) for token in ids[0, tokens.shape[1] :]]


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE trained on a few words; returns its number of tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def write_model(folder: Path, config: type[Any], **settings: Any) -> Any:
    """A language model with random weights, written to a new folder with its tokenizer: attention far from uniform, and a next token
    that depends on it."""
    folder.mkdir()
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    vocabulary = write_tokenizer(folder)
    model: Any = transformers.AutoModelForCausalLM.from_config(config(vocab_size=vocabulary, **sizes, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    model.save_pretrained(folder)
    return model


def export_small(folder: Path) -> Small:
    """Written into an empty folder."""
    source = folder / "small"
    special = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": CAPACITY, "sliding_window": WINDOW}
    model = write_model(source, transformers.MistralConfig, **sizes, **special)
    (source / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<end>"}, "eos_token": "<end>"}))
    (source / "chat_template.jinja").write_text(TEMPLATE)
    edgeattn.export(str(source), output=folder / "out", runtimes=[f"{name}:cpu" for name in RUNTIMES], cache=True)
    return Small(model, folder / "out")


def one_token(token: int, position: int, length: int) -> dict[str, NDArray[Any]]:
    """What a model is fed with a single token, and a mask of `length` positions."""
    return {
        "input_ids": np.full((1, 1), token),
        "position_ids": np.full((1, 1), position),
        "logits_to_keep": np.arange(1),
        "attention_mask": np.ones((1, length), np.int64),
    }


def with_token_model(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle whose file for OpenVINO says that it is to be compiled for a single token too."""
    shutil.copytree(bundle, folder)
    path = folder / "openvino-cpu.xml"
    text = path.read_text()
    assert text.count("&quot;token&quot;: false") == 1
    path.write_text(text.replace("&quot;token&quot;: false", "&quot;token&quot;: true"))
    seal(folder, open_bundle(bundle).manifest)
    return folder
