"""A cache changes nothing: in chunks, token by token, padded, forked, and beyond the window, a decoder says what its whole pass says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.decoding.generating import generate
from edgeattn.errors import FeedError, UsageError
from tests.edgeattn.decoding.small import CAPACITY, RUNTIMES, Small

Array = NDArray[Any]


def _close(got: Array, expected: Array) -> None:
    """Logits reach several hundred here."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


def _tokens(small: Small, batch: int, length: int) -> torch.Tensor:
    return torch.randint(small.model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (3, 30)])
def test_the_whole_prompt_is_the_uncached_pass(session: DecoderSession, small: Small, batch: int, length: int) -> None:
    tokens = _tokens(small, batch, length)
    _close(session.prefill(tokens.numpy()), small.logits(tokens))
    assert session.length == length


def test_the_last_logits_alone(session: DecoderSession, small: Small) -> None:
    tokens = _tokens(small, 2, 11)
    logits = session.prefill(tokens.numpy(), all_logits=False)
    assert logits.shape == (2, 1, small.model.config.vocab_size)
    _close(logits, small.logits(tokens)[:, -1:])
    _close(
        session.prefill(tokens.numpy()[:, :3], all_logits=False), small.logits(torch.cat([tokens, tokens[:, :3]], 1))[:, -1:]
    )


def test_chunks_and_single_tokens_are_the_uncached_pass(session: DecoderSession, small: Small) -> None:
    tokens = _tokens(small, 2, 25)
    parts = [session.prefill(tokens.numpy()[:, :9]), session.prefill(tokens.numpy()[:, 9:20])]
    parts += [session.decode(tokens.numpy()[:, i])[:, None] for i in range(20, 25)]
    _close(np.concatenate(parts, axis=1), small.logits(tokens))


def test_token_by_token_from_an_empty_cache(session: DecoderSession, small: Small) -> None:
    tokens = _tokens(small, 1, 19)
    parts = [session.prefill(tokens.numpy()[:, i : i + 1]) for i in range(19)]
    _close(np.concatenate(parts, axis=1), small.logits(tokens))


def test_padding_in_front_changes_nothing(session: DecoderSession, small: Small) -> None:
    long, short = _tokens(small, 1, 14), _tokens(small, 1, 5)
    tokens = torch.zeros(2, 14, dtype=torch.int64)
    tokens[0], tokens[1, 9:] = long[0], short[0]
    mask = np.ones((2, 14), dtype=np.int64)
    mask[1, :9] = 0
    logits = session.prefill(tokens.numpy(), mask)
    _close(logits[0], small.logits(long)[0])
    _close(logits[1, 9:], small.logits(short)[0])
    more = session.decode([7, 8])
    for row, (prompt, token) in enumerate(((long, 7), (short, 8))):
        whole = torch.cat([prompt, torch.tensor([[token]])], dim=1)
        _close(more[row], small.logits(whole)[0, -1])


def test_arrays_of_any_order_which_change_afterwards(session: DecoderSession, small: Small) -> None:
    """Columns lie together in these, and the caller writes into them once they were read."""
    tokens, mask = np.asfortranarray(_tokens(small, 2, 9).numpy()), np.ones((2, 9), dtype=np.int64, order="F")
    mask[1, :3] = 0
    texts = [torch.from_numpy(tokens[:1].copy()), torch.from_numpy(tokens[1:, 3:].copy())]
    expected = [small.logits(text)[0] for text in texts]
    for a, b in ((0, 5), (5, 8)):
        logits = session.prefill(tokens[:, a:b], part := mask[:, a:b])
        part[:] = 0
        _close(logits[0], expected[0][a:b])
        _close(logits[1, max(3 - a, 0) :], expected[1][max(a - 3, 0) : b - 3])
    last = tokens[:, 8].copy()
    logits = session.decode(last)
    last[:] = 0
    _close(logits, np.stack([rows[-1] for rows in expected]))


def test_forks_go_their_own_ways(session: DecoderSession, small: Small) -> None:
    prompt = _tokens(small, 1, 11)
    session.prefill(prompt.numpy())
    fork = session.fork()
    said = {token: runner.decode([token]) for runner, token in ((session, 3), (fork, 4))}
    again = fork.decode([5])
    for tokens, got in (((3,), said[3]), ((4,), said[4]), ((4, 5), again)):
        whole = torch.cat([prompt, torch.tensor([tokens])], dim=1)
        _close(got[0], small.logits(whole)[0, -1])
    assert (session.length, fork.length) == (12, 13)


def test_reset_forgets(session: DecoderSession, small: Small) -> None:
    first, second = _tokens(small, 2, 8), _tokens(small, 1, 9)
    session.prefill(first.numpy())
    session.reset()
    assert session.length == 0
    _close(session.prefill(second.numpy()), small.logits(second))


def test_greedy_tokens_are_those_of_transformers(session: DecoderSession, small: Small) -> None:
    prompt = _tokens(small, 1, 12)
    tokens = [int(token[0]) for token in generate(session, prompt.numpy(), max_new_tokens=64)]
    assert tokens == small.greedy(prompt, 64)
    assert len(set(tokens)) > 8  # it does not say one thing over and over


def test_a_cancelled_stream_leaves_the_session_usable(session: DecoderSession, small: Small) -> None:
    prompt = _tokens(small, 1, 12)
    seen = []
    for token in generate(session, prompt.numpy(), max_new_tokens=64):
        seen.append(int(token[0]))
        if len(seen) == 5:
            break
    assert session.length == 12 + 4  # the last token was chosen, and not read
    rest = [int(token[0]) for token in generate(session, [seen[-1:]], max_new_tokens=10)]
    assert seen + rest == small.greedy(prompt, 15)


def test_generation_ends_where_the_positions_do(session: DecoderSession, small: Small) -> None:
    prompt = _tokens(small, 1, CAPACITY - 3)
    tokens = [int(token[0]) for token in generate(session, prompt.numpy(), max_new_tokens=64)]
    assert tokens == small.greedy(prompt, 4)  # the last one is chosen from a full cache
    assert session.full


def test_decode_before_prefill(session: DecoderSession) -> None:
    with pytest.raises(UsageError, match="decode before prefill: the cache is empty"):
        session.decode([1])


@pytest.mark.parametrize("tokens", [[], [[]], [1, 2], [[[1]]]])
def test_tokens_of_another_shape(session: DecoderSession, tokens: object) -> None:
    with pytest.raises(FeedError, match=r"expected \(batch, sequence\) with at least one token"):
        session.prefill(tokens)  # type: ignore[arg-type]


def test_tokens_that_are_no_whole_numbers(session: DecoderSession) -> None:
    with pytest.raises(FeedError, match="tokens are float64; expected whole numbers"):
        session.prefill([[1.0]])


@pytest.mark.parametrize("token", [-1, 10_000])
def test_a_token_outside_the_vocabulary(session: DecoderSession, token: int) -> None:
    session.prefill([[1, 2]])
    with pytest.raises(FeedError, match=f"token {token} is outside the vocabulary of "):
        session.decode([token])
    assert session.length == 2


def test_more_tokens_than_positions(session: DecoderSession, small: Small) -> None:
    prompt = _tokens(small, 1, CAPACITY - 1)
    session.prefill(prompt.numpy())
    with pytest.raises(
        FeedError, match=f"2 more tokens behind the {CAPACITY - 1} in the cache .* at most {CAPACITY} positions"
    ):
        session.prefill([[1, 2]])
    whole = torch.cat([prompt, torch.tensor([[5]])], dim=1)
    _close(session.decode([5])[0], small.logits(whole)[0, -1])


def test_a_cache_of_other_rows(session: DecoderSession) -> None:
    session.prefill([[1, 2], [3, 4]])
    with pytest.raises(FeedError, match=r"got 1 rows, the cache holds 2; reset\(\) first"):
        session.decode([1])


def test_a_mask_of_another_shape(session: DecoderSession) -> None:
    with pytest.raises(FeedError, match=r"the mask has shape \[1, 3\], the tokens have \[1, 2\]"):
        session.prefill([[1, 2]], [[1, 1, 1]])


def test_a_model_without_a_cache(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"the model has no cache .*export it with --cache dynamic"):
        load_decoder(tiny_bundle)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_closed_session(small: Small, runtime: str) -> None:
    session = load_decoder(small.bundle, runtime)
    session.prefill([[1, 2]])
    session.close()
    with pytest.raises(UsageError, match="the session is closed; load the bundle again"):
        session.decode([3])


@pytest.mark.parametrize("mask", [[[1, 0]], [[2, 1]], [[1, -1]]])
def test_a_mask_that_is_none(session: DecoderSession, mask: list[list[int]]) -> None:
    with pytest.raises(FeedError, match="its last column must be 1"):
        session.prefill([[1, 2]], mask)


def _step(layers: int = 2, heads: int = 2, size: int = 8, past: int = 3, batch: int = 1) -> dict[str, Array]:
    """One token behind a cache, all that `Session.run` takes."""
    names = [f"past_key_values.{i}.{kind}" for i in range(layers) for kind in ("key", "value")]
    return {
        "input_ids": np.array([[1]]),
        "attention_mask": np.ones((1, 4), dtype=np.int64),
        "position_ids": np.array([[3]]),
        "logits_to_keep": np.array([0]),
        **{name: np.zeros((batch, heads, past, size), dtype=np.float32) for name in names},
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"heads": 4}, r"'past_key_values.0.key', axis 1: got size 4 \(float32\[1, 4, 3, 8\]\), expected 2"),
        ({"size": 16}, r"'past_key_values.0.key', axis 3: got size 16 \(float32\[1, 2, 3, 16\]\), expected 8"),
        ({"layers": 1}, r"input 'past_key_values.1.key' is missing; the model needs input_ids, .*past_key_values.1.value"),
        ({"layers": 3}, r"unknown input 'past_key_values.2.key'; did you mean 'past_key_values.1.key'"),
        ({"batch": 2}, "'past_key_values.0.key': batch is 2, but 1 in input 'input_ids'"),
        ({"past": 5}, r"'attention_mask', axis 1: got size 4, expected sequence \+ past = 6"),
    ],
)
def test_the_cache_of_another_model(session: DecoderSession, other: dict[str, int], message: str) -> None:
    with pytest.raises(FeedError, match=message):
        session.session.run(_step(**other))
    assert session.session.run(_step())["logits"].shape[:2] == (1, 1)  # it is as it was
