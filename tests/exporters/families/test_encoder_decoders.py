"""Models with an encoder and a decoder: cross attention, two lengths, and the decoder's own pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeattn.modalities import DecoderSettings
from edgeattn.spec import Causal, SoftmaxAttention
from tests.exporters.families.building import Family, prove_family

PLAIN = SoftmaxAttention(2, 2, 8)
PADDED = SoftmaxAttention(2, 2, 8, mask="key_padding")
CAUSAL = SoftmaxAttention(2, 2, 8, pattern=Causal())
TEXT = ("input_ids", "attention_mask", "decoder_input_ids")
BOTH = ("logits", "encoder_last_hidden_state")

T5: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 40,
    "decoder_start_token_id": 7,
}
LAYERS: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
EYES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}
WORDS: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "encoder_hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 2,
    "sep_token_id": 2,
}

T5_ENCODER = SoftmaxAttention(2, 2, 8, scale=1.0, mask="key_padding", bias=True)
T5_DECODER = SoftmaxAttention(2, 2, 8, scale=1.0, pattern=Causal(), bias=True)
T5_CROSS = SoftmaxAttention(2, 2, 8, scale=1.0, mask="key_padding")
SCALED = SoftmaxAttention(2, 2, 8, scale=1.0)
SCALED_CAUSAL = SoftmaxAttention(2, 2, 8, scale=1.0, pattern=Causal())

FAMILIES = {
    "t5": Family("T5ForConditionalGeneration", T5, [T5_ENCODER] * 2 + [T5_DECODER, T5_CROSS] * 2, TEXT, BOTH, gain=1.5),
    "bart": Family(
        "BartForConditionalGeneration",
        {**LAYERS, "max_position_embeddings": 64},
        [PADDED] * 2 + [CAUSAL, PADDED] * 2,
        TEXT,
        BOTH,
        {"sequence": 64, "decoder_sequence": 64},
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        {**LAYERS, "max_source_positions": 30, "max_target_positions": 40, "num_mel_bins": 16},
        [SCALED] * 2 + [SCALED_CAUSAL, SCALED] * 2,
        ("input_features", "decoder_input_ids"),
        BOTH,
        {"decoder_sequence": 40},
    ),
    "image-to-text": Family(
        "VisionEncoderDecoderModel",
        {
            "encoder": {"model_type": "vit", **EYES},
            "decoder": {
                "model_type": "gpt2",
                "vocab_size": 50,
                "n_embd": 16,
                "n_layer": 2,
                "n_head": 2,
                "n_positions": 40,
                "add_cross_attention": True,
                "is_decoder": True,
                "bos_token_id": 3,
                "eos_token_id": 2,
            },
        },
        [PLAIN] * 2 + [CAUSAL, PLAIN] * 2,
        ("pixel_values", "decoder_input_ids"),
        BOTH,
        {"decoder_sequence": 40},
    ),
    # cross attention of BLIP never gets a mask, in transformers either: that of the question counts in its own layers
    "visual-question-answering": Family(
        "BlipForQuestionAnswering",
        {"vision_config": EYES, "text_config": WORDS, "projection_dim": 8},
        [PLAIN] * 2 + [PADDED, PLAIN] * 2 + [CAUSAL, PLAIN] * 2,
        ("input_ids", "attention_mask", "pixel_values", "decoder_input_ids"),
        ("logits",),
        {"sequence": 40, "decoder_sequence": 40},
    ),
}
QUICK = ("whisper",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES])
def test_a_family_with_a_decoder(name: str, tmp_path: Path) -> None:
    bundle = prove_family(FAMILIES[name], tmp_path)
    settings = bundle.manifest.preprocessing
    assert settings is not None
    assert settings.decoder == DecoderSettings("decoder_input_ids", 7 if name == "t5" else 3)
