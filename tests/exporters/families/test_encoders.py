"""Encoders of transformers: full attention, alternating local and global, position biases, shared layers, each task's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeattn.spec import SlidingWindow, SoftmaxAttention
from tests.exporters.families.building import Family, prove_family

_COMMON: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
_DISTIL = {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40}
_MODERN = {
    "local_attention": 6,
    "layer_types": ["full_attention", "sliding_attention"],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True}
_TYPED = ("input_ids", "attention_mask", "token_type_ids")
_LIMIT = {"sequence": 40}
_BEHIND_PADDING = {"sequence": 38}  # positions are counted from behind the padding index

PADDED = SoftmaxAttention(4, 4, 8, mask="key_padding")
WINDOW = SoftmaxAttention(4, 4, 8, mask="key_padding", pattern=SlidingWindow(3, 3))
BIASED = SoftmaxAttention(4, 4, 8, mask="key_padding", bias=True)
DISENTANGLED = SoftmaxAttention(4, 4, 8, scale=24**-0.5, mask="key_padding", bias=True)

FAMILIES = {
    "BERT": Family("BertModel", _COMMON, [PADDED] * 2, _TYPED, ("last_hidden_state", "pooler_output"), _LIMIT),
    "BERT, masked words": Family("BertForMaskedLM", _COMMON, [PADDED] * 2, _TYPED, limits=_LIMIT),
    "BERT, sequence classes": Family("BertForSequenceClassification", _COMMON, [PADDED] * 2, _TYPED, limits=_LIMIT),
    "BERT, token classes": Family("BertForTokenClassification", _COMMON, [PADDED] * 2, _TYPED, limits=_LIMIT),
    "BERT, answers": Family("BertForQuestionAnswering", _COMMON, [PADDED] * 2, _TYPED, ("start_logits", "end_logits"), _LIMIT),
    "RoBERTa": Family("RobertaForMaskedLM", {**_COMMON, "pad_token_id": 1}, [PADDED] * 2, _TYPED, limits=_BEHIND_PADDING),
    "MPNet": Family("MPNetForMaskedLM", {**_COMMON, "pad_token_id": 1}, [BIASED] * 2, limits=_BEHIND_PADDING),
    "DistilBERT": Family("DistilBertForMaskedLM", _DISTIL, [PADDED] * 2, limits=_LIMIT),
    "ModernBERT": Family("ModernBertForMaskedLM", {**_COMMON, **_MODERN}, [PADDED, WINDOW], limits=_LIMIT),
    "ALBERT": Family(
        "AlbertForMaskedLM", {**_COMMON, "embedding_size": 16, "num_hidden_layers": 3}, [PADDED] * 3, _TYPED, limits=_LIMIT
    ),
    "DeBERTa-v2": Family("DebertaV2ForMaskedLM", {**_COMMON, **_DEBERTA}, [DISENTANGLED] * 2, limits=_LIMIT),
}
QUICK = {"BERT, answers", "ModernBERT"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def test_encoders(name: str, tmp_path: Path) -> None:
    prove_family(FAMILIES[name], tmp_path)
