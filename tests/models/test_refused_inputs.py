"""What `attention` says no to: tensors that do not fit the spec, each with what was got and expected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeattn.errors import UsageError
from edgeattn.models.functional import attention
from edgeattn.spec import AttentionSpec, BlockSparse, PrefixLM, SoftmaxAttention

SPEC = SoftmaxAttention(4, 2, 4, 3)
Q, K, V = torch.zeros(2, 4, 3, 4), torch.zeros(2, 2, 5, 4), torch.zeros(2, 2, 5, 3)
PADDING = torch.ones(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (Q[0], K, V, r"q must be \(B, H, S, D\), got 3 axes of sizes \(4, 3, 4\)"),
        (Q.long(), K, V, r"q must be of a float dtype, got torch\.int64; cast"),
        (Q[:, :3], K, V, r"heads of q: got 3, expected 4 \(spec\.q_heads\)"),
        (Q, K[:, :1], V, r"heads of k: got 1, expected 2 \(spec\.kv_heads\)"),
        (Q, K, V[:, :1], r"heads of v: got 1, expected 2 \(spec\.kv_heads\)"),
        (Q[..., :2], K, V, r"head size of q: got 2, expected 4 \(spec\.head_dim\)"),
        (Q, K[..., :2], V, r"head size of k: got 2, expected 4 \(spec\.head_dim\)"),
        (Q, K, V[..., :2], r"head size of v: got 2, expected 3 \(spec\.value_head_dim\)"),
        (Q, K[:1], V, r"batch of k: got 1, expected 2 \(the batch of q\)"),
        (Q, K, V[:1], r"batch of v: got 1, expected 2 \(the batch of q\)"),
        (Q, K, V[:, :, :4], r"length of v: got 4, expected 5 \(the length of k\)"),
    ],
)
def test_tensors_that_do_not_fit_the_spec(q: Tensor, k: Tensor, v: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(q, k, v, SPEC)


@pytest.mark.parametrize(
    ("spec", "mask", "message"),
    [
        (SPEC, PADDING, r"mask was given, but the spec has mask='none'"),
        (replace(SPEC, mask="key_padding"), None, r"mask is missing: the spec has mask='key_padding'"),
        (replace(SPEC, mask="key_padding"), PADDING.float(), r"mask must be bool \(True takes part\), got torch\.float32"),
        (replace(SPEC, mask="key_padding"), PADDING[None], r"must be \(B, T\), got sizes \(1, 2, 5\)"),
        (replace(SPEC, mask="key_padding"), PADDING[:1], r"batch of mask: got 1, expected 2"),
        (replace(SPEC, mask="key_padding"), PADDING[:, :4], r"length of mask: got 4, expected 5"),
        (replace(SPEC, mask="dense"), PADDING, r"mask of sizes \(2, 5\) cannot be broadcast .* \(2, 4, 3, 5\)"),
        (replace(SPEC, mask="dense"), PADDING[None, None, None, :1], r"cannot be broadcast"),
    ],
)
def test_masks_that_do_not_fit_the_spec(spec: AttentionSpec, mask: Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(Q, K, V, spec, mask)


@pytest.mark.parametrize(
    ("spec", "bias", "message"),
    [
        (SPEC, torch.zeros(3, 5), r"bias was given, but the spec has bias=False"),
        (replace(SPEC, bias=True), None, r"bias is missing: the spec has bias=True"),
        (replace(SPEC, bias=True), PADDING, r"bias must be of a float dtype, got torch\.bool; a bool belongs in mask"),
        (replace(SPEC, bias=True), torch.zeros(4, 5), r"bias of sizes \(4, 5\) cannot be broadcast"),
    ],
)
def test_biases_that_do_not_fit_the_spec(spec: AttentionSpec, bias: Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(Q, K, V, spec, bias=bias)


def test_something_else_than_a_spec() -> None:
    with pytest.raises(UsageError, match=r"spec must be an attention spec of .*, got dict"):
        attention(Q, K, V, {})  # type: ignore[arg-type]


DOCUMENTS = torch.zeros(2, 5, dtype=torch.int64)
SINK, ADDITIVE, PREFIX = replace(SPEC, sink=True), replace(SPEC, score="additive", scale=0.0), replace(SPEC, pattern=PrefixLM())
PACKED = replace(SPEC, mask="document")


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        (SINK, {}, r"sink is missing: the spec has sink=True; pass sink="),
        (SPEC, {"sink": torch.zeros(4)}, r"sink was given, but the spec has sink=False"),
        (SINK, {"sink": torch.zeros(2)}, r"sink must have sizes \(4,\), got \(2,\)"),
        (SINK, {"sink": torch.zeros(4, 1)}, r"sink must have sizes \(4,\), got \(4, 1\)"),
        (SINK, {"sink": torch.zeros(4).long()}, r"sink must be of a float dtype, got torch\.int64"),
        (ADDITIVE, {}, r"score_weight is missing: the spec has score='additive'"),
        (SPEC, {"score_weight": torch.zeros(4, 4)}, r"score_weight was given, but the spec has score='dot'"),
        (ADDITIVE, {"score_weight": torch.zeros(4, 3)}, r"score_weight must have sizes \(4, 4\), got \(4, 3\)"),
        (ADDITIVE, {"score_weight": torch.zeros(2, 4)}, r"score_weight must have sizes \(4, 4\), got \(2, 4\)"),
        (ADDITIVE, {"score_weight": torch.zeros(4, 4).bool()}, r"score_weight must be of a float dtype, got torch\.bool"),
        (PREFIX, {}, r"prefix is missing: the spec has prefix-LM"),
        (SPEC, {"prefix": DOCUMENTS[:, 0]}, r"prefix was given, but the spec has full"),
        (PREFIX, {"prefix": torch.zeros(2)}, r"prefix must be int64, got torch\.float32"),
        (PREFIX, {"prefix": torch.zeros(2, dtype=torch.int32)}, r"prefix must be int64, got torch\.int32"),
        (PREFIX, {"prefix": DOCUMENTS[:1, 0]}, r"prefix must have sizes \(2,\), got \(1,\)"),
        (PREFIX, {"prefix": DOCUMENTS}, r"prefix must have sizes \(2,\), got \(2, 5\)"),
    ],
)
def test_later_inputs_that_do_not_fit_the_spec(spec: AttentionSpec, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(Q, K, V, spec, **given)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"mask is missing: the spec has mask='document'"),
        (DOCUMENTS.int(), r"a document mask must be int64, got torch\.int32"),
        (PADDING, r"a document mask must be int64, got torch\.bool"),
        (DOCUMENTS[:1], r"a document mask must have sizes \(2, 5\), got \(1, 5\)"),
        (DOCUMENTS[:, :4], r"a document mask must have sizes \(2, 5\), got \(2, 4\)"),
        (DOCUMENTS[:, None], r"a document mask must have sizes \(2, 5\), got \(2, 1, 5\)"),
    ],
)
def test_documents_that_do_not_fit(mask: Tensor | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention(torch.zeros(2, 4, 5, 4), K, V, PACKED, mask)


def test_documents_are_of_one_sequence() -> None:
    with pytest.raises(UsageError, match="one sequence that sees itself: got 3 queries and 5 keys"):
        attention(Q, K, V, PACKED, DOCUMENTS)


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (3, 5, "5 keys, but the layout describes 4 positions; make it larger, or cut the input"),
        (5, 3, "5 queries, but the layout describes 4 positions"),
    ],
)
def test_inputs_longer_than_the_layout(queries: int, keys: int, message: str) -> None:
    spec = replace(SPEC, pattern=BlockSparse(2, (("10", "11"),)))
    q, k, v = torch.zeros(2, 4, queries, 4), torch.zeros(2, 2, keys, 4), torch.zeros(2, 2, keys, 3)
    with pytest.raises(UsageError, match=message):
        attention(q, k, v, spec)
    assert attention(q[:, :, :4], k[:, :, :4], v[:, :, :4], spec).isfinite().all()
