"""Models that see: whole images, shifted windows, detectors, segmentation, and images compared with texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from edgeattn.spec import Causal, SoftmaxAttention
from tests.exporters.families.building import Family, prove_family

PLAIN = SoftmaxAttention(2, 2, 8)
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
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 49,
    "sep_token_id": 2,
}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 3,
    "initializer_range": 0.1,
}
DETECTOR: dict[str, Any] = {
    "backbone_config": transformers.ResNetConfig(
        depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8, layer_type="basic", out_features=["stage2"]
    ),
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 5,
    "num_labels": 3,
    "image_size": [64, 96],
}
PYRAMID: dict[str, Any] = {
    "image_size": 64,
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 16,
    "num_labels": 3,
    "initializer_range": 0.1,
}
SHIFTED = [SoftmaxAttention(heads, heads, 4, bias=True) for heads in (2, 2, 4, 4)]
COSINE = [SoftmaxAttention(heads, heads, 4, scale=1.0, bias=True) for heads in (2, 2, 4, 4)]
SEEN = SoftmaxAttention(2, 2, 8, mask="key_padding")
TEXT = SoftmaxAttention(2, 2, 8, pattern=Causal(), mask="key_padding")
BOXES = ("logits", "pred_boxes", "last_hidden_state", "encoder_last_hidden_state")
PIXELS = ("pixel_values",)

FAMILIES = {
    "ViT": Family("ViTForImageClassification", {**EYES, "num_labels": 3}, [PLAIN] * 2, PIXELS),
    "Swin": Family("SwinForImageClassification", WINDOWS, SHIFTED, PIXELS, constants=16384),
    # its scores are cosines times a factor that is trained up to 100: more of it is rounding
    "Swin v2": Family("Swinv2ForImageClassification", WINDOWS, COSINE, PIXELS, gain=1.5),
    "YOLOS": Family(
        "YolosForObjectDetection",
        {**EYES, "image_size": [32, 48], "num_detection_tokens": 5, "num_labels": 3},
        [PLAIN] * 2,
        PIXELS,
        ("logits", "pred_boxes", "last_hidden_state"),
    ),
    # the mask of DETR marks what is image and what is padding around it; here all is image
    "DETR": Family("DetrForObjectDetection", DETECTOR, [SEEN, *[PLAIN, SEEN] * 2], PIXELS, BOXES, gain=2.0, harmless=("mask",)),
    "Conditional DETR": Family(
        "ConditionalDetrForObjectDetection",
        DETECTOR,
        [SEEN, *[PLAIN, SoftmaxAttention(2, 2, 16, value_head_dim=8, mask="key_padding")] * 2],
        PIXELS,
        BOXES,
        gain=2.0,
        harmless=("mask",),
    ),
    "Segformer": Family("SegformerForSemanticSegmentation", PYRAMID, [SoftmaxAttention(1, 1, 8), PLAIN], PIXELS),
    "CLIP": Family(
        "CLIPModel",
        {"vision_config": EYES, "text_config": WORDS, "projection_dim": 8},
        [PLAIN] * 2 + [TEXT] * 2,
        ("input_ids", "attention_mask", "pixel_values"),
        ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
        {"sequence": 32},
    ),
    "BLIP, captions": Family(
        "BlipForConditionalGeneration",
        {"vision_config": EYES, "text_config": {**WORDS, "encoder_hidden_size": 16}, "projection_dim": 8},
        [PLAIN] * 2 + [TEXT, PLAIN] * 2,
        ("input_ids", "attention_mask", "pixel_values"),
        ("logits", "image_embeds", "last_hidden_state"),
        {"sequence": 32},
    ),
    # the logits of the image's tokens come first
    "GIT, captions": Family(
        "GitForCausalLM",
        {**WORDS, "vision_config": EYES, "initializer_range": 0.1},
        [PLAIN] * 2 + [SoftmaxAttention(2, 2, 8, mask="dense")] * 2,
        ("input_ids", "attention_mask", "pixel_values"),
        ("logits",),
        {"sequence": 32},
        gain=2.0,
    ),
}
QUICK = {"ViT"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def test_a_model_that_sees(name: str, tmp_path: Path) -> None:
    bundle = prove_family(FAMILIES[name], tmp_path)
    images = next(info for info in bundle.manifest.inputs if info.name == "pixel_values")
    assert images.dims[0] == ("images" if name == "CLIP" else "batch")
    assert all(isinstance(size, int) for size in images.dims[1:])
