"""transformers' masks as patterns: only what is plainly one is taken for one, and nothing is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import masking_utils as hf

from edgeattn.errors import CaptureError
from edgeattn.exporters.sources.huggingface.attending import attend
from edgeattn.exporters.sources.huggingface.masks import Seen, described_mask, recognise, seen
from edgeattn.models.attention.naive import softmax_attention
from edgeattn.naive import visible
from edgeattn.spec import Causal, Full, Pattern, SlidingWindow, SoftmaxAttention

Function = Callable[..., Any]


@pytest.mark.parametrize(
    ("function", "pattern"),
    [
        (hf.causal_mask_function, Causal()),
        (hf.bidirectional_mask_function, Full()),
        (hf.sliding_window_causal_mask_function(6), SlidingWindow(5, 0)),
        (hf.sliding_window_bidirectional_mask_function(3), SlidingWindow(3, 3)),
        (hf.sliding_window_overlay(4), SlidingWindow(3, None)),
        (
            hf.and_masks(hf.sliding_window_causal_mask_function(9), hf.sliding_window_causal_mask_function(5)),
            SlidingWindow(4, 0),
        ),
        (hf.or_masks(hf.causal_mask_function, hf.sliding_window_bidirectional_overlay(2)), SlidingWindow(None, 2)),
        (hf.sliding_window_causal_mask_function(4096), SlidingWindow(4095, 0)),
        (hf.add_offsets_to_mask_function(hf.causal_mask_function, 7, 7), Causal()),
    ],
)
def test_functions_of_positions_are_patterns(function: Function, pattern: Pattern) -> None:
    assert recognise(function) == pattern


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(2, 60))
def test_any_window_sees_what_transformers_sees(left: int, right: int, length: int) -> None:
    def function(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key >= query - left) & (key <= query + right)

    pattern = recognise(function)
    assert pattern == SlidingWindow(left, right)
    theirs = hf.sdpa_mask(1, length, length, mask_function=function, allow_is_causal_skip=False)
    assert theirs is not None
    np.testing.assert_array_equal(visible(pattern, length, length), theirs[0, 0].numpy())


_LEFT = torch.tensor([0, 3])
_DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2]])
_IMAGES = torch.tensor([[-1, 0, 0, 0, -1, -1, -1], [-1, -1, -1, 0, 0, -1, -1]])
UNLIKE_ANY = {
    "chunks": hf.chunked_causal_mask_function(4, _LEFT),
    "documents": hf.and_masks(hf.causal_mask_function, hf.packed_sequence_mask_function(_DOCUMENTS)),
    "images": hf.or_masks(hf.causal_mask_function, hf.blockwise_overlay(_IMAGES)),
    "static chunks": lambda b, h, q, k: (q // 4 == k // 4) & (k <= q),
    "a prefix": lambda b, h, q, k: (k <= q) | (k < 3),
    "a far prefix": lambda b, h, q, k: (k <= q) & ((q < 1000) | (k > 2)),
    "every second": lambda b, h, q, k: (k <= q) & ((q - k) % 2 == 0),
    "two windows": lambda b, h, q, k: ((q - k >= 0) & (q - k < 3)) | ((q - k > 5) & (q - k < 8)),
    "heads differ": lambda b, h, q, k: k <= q + h,
    "rows differ": lambda b, h, q, k: k <= q + b,
    "nothing": lambda b, h, q, k: (k < 0) & (q < 0),
}


@pytest.mark.parametrize("name", UNLIKE_ANY)
def test_other_functions_are_no_pattern(name: str) -> None:
    assert recognise(UNLIKE_ANY[name]) is None


@pytest.mark.parametrize("name", ["chunks", "documents", "images", "static chunks", "a prefix"])
def test_what_is_no_pattern_is_a_dense_mask_with_the_padding_in_it(name: str) -> None:
    padding = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]]).bool()
    mask = described_mask(2, 7, 7, mask_function=UNLIKE_ANY[name], attention_mask=padding, allow_is_causal_skip=True)
    theirs = hf.sdpa_mask(2, 7, 7, mask_function=UNLIKE_ANY[name], attention_mask=padding, allow_is_causal_skip=False)
    assert seen(mask) is None
    assert theirs is not None
    torch.testing.assert_close(mask, theirs)
    assert not mask[0, :, :, 5:].any()


class _Choosy(torch.nn.Module):
    def forward(self, padding: torch.Tensor) -> torch.Tensor:
        def reads_a_value(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return key <= query if bool(padding.all()) else key >= query

        batch, length = padding.shape
        return described_mask(batch, length, length, mask_function=reads_a_value, attention_mask=padding)


def test_a_function_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(CaptureError, match=r"the mask function .*reads_a_value of .* is no causal, .* cannot be traced"):
        torch.export.export(_Choosy(), (torch.ones(2, 5).bool(),), strict=False)


def test_two_masks_over_one_padding_keep_apart() -> None:
    padding = torch.ones(2, 7).bool()
    local = described_mask(2, 7, 7, mask_function=hf.sliding_window_causal_mask_function(3), attention_mask=padding)
    whole = described_mask(2, 7, 7, mask_function=hf.causal_mask_function, attention_mask=padding)
    assert (seen(local), seen(whole)) == (Seen(SlidingWindow(2, 0), True), Seen(Causal(), True))
    assert seen(padding) is None


def test_queries_behind_a_cache_are_the_last_of_the_keys() -> None:
    local = hf.sliding_window_causal_mask_function(3)
    behind = described_mask(1, 2, 5, q_offset=3, mask_function=local)
    assert seen(behind) == Seen(SlidingWindow(2, 0, "lower_right"), False)
    buffer = described_mask(1, 2, 7, q_offset=3, mask_function=local)
    assert seen(buffer) is None
    assert buffer.long().tolist() == [[[[0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]]]]


# ----- what the attention makes of a mask

_Q, _K, _V = (torch.randn(2, 4, 7, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))


def _attend(mask: torch.Tensor | None, **options: Any) -> torch.Tensor:
    return attend(torch.nn.Module(), _Q, _K, _V, mask, **options)[0].transpose(1, 2)


def _truth(pattern: Pattern = Full(), **options: Any) -> torch.Tensor:  # noqa: B008 - frozen
    inputs = {name: options.pop(name) for name in ("mask", "bias") if name in options}
    return softmax_attention(_Q, _K, _V, SoftmaxAttention(4, 4, 8, pattern=pattern, **options), **inputs)


def test_without_a_mask_the_module_decides_where_torch_would() -> None:
    torch.testing.assert_close(_attend(None), _truth(Causal()))
    torch.testing.assert_close(_attend(None, is_causal=False), _truth())
    torch.testing.assert_close(_attend(None, causal_flag=False), _truth())


def test_a_described_mask_is_pattern_and_padding() -> None:
    padding = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]]).bool()
    mask = described_mask(2, 7, 7, mask_function=hf.sliding_window_causal_mask_function(3), attention_mask=padding)
    expected = softmax_attention(
        _Q, _K, _V, SoftmaxAttention(4, 4, 8, pattern=SlidingWindow(2, 0), mask="key_padding"), padding
    )
    torch.testing.assert_close(_attend(mask, is_causal=False, sliding_window=99), expected)
    alone = described_mask(2, 7, 7, mask_function=hf.sliding_window_causal_mask_function(3))
    torch.testing.assert_close(_attend(alone), _truth(SlidingWindow(2, 0)))


def test_a_mask_of_the_models_own_is_dense_or_a_bias() -> None:
    own = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(4)) > 0.4
    spec = SoftmaxAttention(4, 4, 8, mask="dense")
    torch.testing.assert_close(_attend(own), softmax_attention(_Q, _K, _V, spec, own))
    added, bias = torch.where(own, 0.0, -9.0), torch.randn(1, 4, 7, 7)
    spec = SoftmaxAttention(4, 4, 8, bias=True)
    torch.testing.assert_close(_attend(added), softmax_attention(_Q, _K, _V, spec, bias=added))
    torch.testing.assert_close(_attend(added, position_bias=bias), softmax_attention(_Q, _K, _V, spec, bias=added + bias))


def test_a_mask_that_lost_its_meaning_is_refused() -> None:
    mask = described_mask(2, 7, 7, mask_function=hf.causal_mask_function, attention_mask=torch.ones(2, 7).bool())
    with pytest.raises(CaptureError, match=r"Module got a mask of shape \[2, 7\] that it did not get from transformers' mask"):
        _attend(mask.clone())
