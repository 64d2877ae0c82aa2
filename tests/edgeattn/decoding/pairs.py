"""Small encoder-decoders of four families, exported with their caches: attention far from uniform, answers of many tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.generation import GenerationMixin

import edgeattn
from tests.edgeattn.decoding.small import RUNTIMES, write_tokenizer

CAPACITY = 96
"""Most positions of a decoder."""
START, FRAMES, SIDE = 3, 100, 32

Feeds = dict[str, torch.Tensor]

_TOKENS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 0, "decoder_start_token_id": START}
_LAYERS: dict[str, Any] = {
    **_TOKENS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Family:
    """A class of transformers: options of its config, the factors on its matrices and on its embeddings, and the seed that
    makes its answers of many tokens."""

    architecture: str
    options: dict[str, Any]
    gain: float
    embedded: float
    seed: int
    reads: str = "text"


FAMILIES = {
    "bart": Family("Bart", {**_LAYERS, "max_position_embeddings": CAPACITY, "forced_eos_token_id": None}, 6.0, 6.0, 2),
    "t5": Family(
        "T5",
        {
            **_TOKENS,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 20,
            "n_positions": CAPACITY,
            "tie_word_embeddings": False,
        },
        3.0,
        0.3,
        0,
    ),
    "whisper": Family(
        "Whisper",
        {
            **_LAYERS,
            "max_source_positions": FRAMES // 2,
            "max_target_positions": CAPACITY,
            "num_mel_bins": 16,
            "begin_suppress_tokens": None,
        },
        14.0,
        4.0,
        2,
        reads="sound",
    ),
    "vit-gpt2": Family(
        "VisionEncoderDecoder",
        {
            **_TOKENS,
            "encoder": {
                "model_type": "vit",
                "image_size": SIDE,
                "patch_size": 8,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
            },
            "decoder": {
                "model_type": "gpt2",
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": CAPACITY,
                "add_cross_attention": True,
                "is_decoder": True,
                "tie_word_embeddings": False,
            },
        },
        8.0,
        8.0,
        0,
        reads="image",
    ),
}


@dataclass(frozen=True)
class Pair:
    """The model in PyTorch, and its bundle."""

    family: str
    model: Any
    folder: Path
    bundle: Path

    @property
    def reads(self) -> str:
        """`text`, `sound` or `image`."""
        return FAMILIES[self.family].reads

    @property
    def vocabulary(self) -> int:
        """Tokens of the decoder."""
        return int(self.model.get_output_embeddings().out_features)

    def feeds(self, batch: int) -> Feeds:
        """What the encoder reads; every second text is shorter than the longest."""
        generator = torch.Generator().manual_seed(batch)
        if self.reads == "sound":
            return {"input_features": 2 * torch.randn(batch, 16, FRAMES, generator=generator)}
        if self.reads == "image":
            return {"pixel_values": torch.randn(batch, 3, SIDE, SIDE, generator=generator)}
        ids = torch.randint(4, self.vocabulary, (batch, 11), generator=generator)
        mask = torch.ones_like(ids)
        mask[1::2, 7:] = 0
        return {"input_ids": torch.where(mask == 1, ids, 1), "attention_mask": mask}

    def tokens(self, batch: int, length: int) -> torch.Tensor:
        """Of the decoder, (B, S)."""
        return torch.randint(4, self.vocabulary, (batch, length), generator=torch.Generator().manual_seed(length))

    def logits(self, feeds: Feeds, tokens: torch.Tensor) -> Any:
        """The whole uncached pass, (B, S, V)."""
        with torch.inference_mode():
            return self.model(**feeds, decoder_input_ids=tokens, use_cache=False).logits.numpy()

    def greedy(self, feeds: Feeds, count: int, **options: Any) -> list[list[int]]:
        """What transformers itself generates behind the start token, for each row."""
        begin = torch.full((len(next(iter(feeds.values()))), 1), START)
        settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 1, **options}
        with torch.inference_mode():  # not Whisper's own, which cuts sounds into pieces
            ids = GenerationMixin.generate(self.model, **feeds, decoder_input_ids=begin, **settings)
        answers: list[list[int]] = ids[:, 1:].tolist()
        return answers


def build_pair(name: str, folder: Path) -> Any:
    """The family's model, saved to `folder` with a tokenizer, always the same numbers."""
    family = FAMILIES[name]
    torch.manual_seed(family.seed)
    model = _model(family, write_tokenizer(folder))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(family.embedded if "embed" in path or "shared" in path else family.gain)
    model.save_pretrained(folder)
    if family.reads == "sound":
        extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=FRAMES // 100)
        extractor.save_pretrained(folder)
    if family.reads == "image":
        transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


def _model(family: Family, vocabulary: int) -> Any:
    """Of transformers' first numbers."""
    config = getattr(transformers, f"{family.architecture}Config")
    if family.reads == "image":
        options = {**family.options, "decoder": {**family.options["decoder"], "vocab_size": vocabulary}}
        return transformers.VisionEncoderDecoderModel(config(**options)).eval()
    return getattr(transformers, f"{family.architecture}ForConditionalGeneration")(
        config(vocab_size=vocabulary, **family.options)
    ).eval()


def export_pair(name: str, folder: Path) -> Pair:
    """Written into an empty folder."""
    source = folder / name
    source.mkdir()
    model = build_pair(name, source)
    edgeattn.export(str(source), output=folder / "out", runtimes=[f"{runtime}:cpu" for runtime in RUNTIMES], cache=True)
    return Pair(name, model, source, folder / "out")
