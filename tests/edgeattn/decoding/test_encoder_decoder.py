"""An encoder-decoder that reads once and answers token by token says what its whole pass says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeattn.bundle import open_bundle
from edgeattn.decoding import EncoderDecoderSession, load_decoder, load_encoder_decoder
from edgeattn.decoding.generating import generate
from edgeattn.decoding.sampling import Sampling
from edgeattn.errors import FeedError, UsageError
from edgeattn.spec import Causal
from tests.edgeattn.decoding.pairs import CAPACITY, START, Feeds, Pair
from tests.edgeattn.decoding.small import RUNTIMES, Small

Array = NDArray[Any]


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, pair: Pair) -> Iterator[EncoderDecoderSession]:
    """The bundle on each runtime."""
    with load_encoder_decoder(pair.bundle, request.param) as loaded:
        yield loaded


def _close(got: Array, expected: Array) -> None:
    """T5 in PyTorch is up to 5e-5 away from its own float64 here."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


def _numpy(feeds: Feeds) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in feeds.items()}


def _row(feeds: Feeds, row: int) -> Feeds:
    """One row alone, without its padding."""
    length = int(feeds["attention_mask"][row].sum()) if "attention_mask" in feeds else None
    return {name: tensor[row : row + 1, :length] for name, tensor in feeds.items()}


def _generated(session: EncoderDecoderSession, rows: int, count: int, **options: Any) -> list[list[int]]:
    steps = generate(session, [list(session.begin)] * rows, max_new_tokens=count, **options)
    answers: list[list[int]] = np.stack(list(steps), axis=1).tolist()
    return answers


def test_the_parts_have_what_they_need(pair: Pair) -> None:
    bundle = open_bundle(pair.bundle)
    encoder = bundle.parts["encoder"].manifest
    assert ["encoder" in site.module for site in encoder.sites] == [True] * 2
    kinds = [(type(site.spec.pattern).__name__, site.spec.mask) for site in bundle.manifest.sites]
    padding = "key_padding" if pair.reads == "text" else "none"
    assert kinds == [("Causal", "none"), ("Full", padding)] * 2
    assert bundle.manifest.sites[0].spec.pattern == Causal("lower_right")
    masked = ["encoder_attention_mask"] if pair.reads == "text" else []
    cross, own = (
        [f"past_key_values.{i}.{of}.{kind}" for i in range(2) for kind in ("key", "value")] for of in ("encoder", "decoder")
    )
    assert [info.name for info in bundle.manifest.inputs] == ["decoder_input_ids", *masked, *cross, *own]
    stored, given = bundle.manifest.files["weights-fp32.bin"].size, (pair.folder / "model.safetensors").stat().st_size
    assert stored <= given  # each weight once, those that both halves have as well


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (2, 30)])
def test_the_whole_answer_is_the_uncached_pass(session: EncoderDecoderSession, pair: Pair, batch: int, length: int) -> None:
    feeds, tokens = pair.feeds(batch), pair.tokens(batch, length)
    session.encode(_numpy(feeds))
    _close(session.prefill(tokens.numpy()), pair.logits(feeds, tokens))
    assert session.length == length


def test_chunks_and_single_tokens_are_the_uncached_pass(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds, tokens = pair.feeds(2), pair.tokens(2, 40)
    session.encode(_numpy(feeds))
    parts = [session.prefill(tokens.numpy()[:, :9]), session.prefill(tokens.numpy()[:, 9:29])]
    parts += [session.decode(tokens.numpy()[:, i])[:, None] for i in range(29, 40)]
    _close(np.concatenate(parts, axis=1), pair.logits(feeds, tokens))


def test_token_by_token_from_an_empty_cache(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds, tokens = pair.feeds(1), pair.tokens(1, 25)
    session.encode(_numpy(feeds))
    parts = [session.prefill(tokens.numpy()[:, i : i + 1]) for i in range(25)]
    _close(np.concatenate(parts, axis=1), pair.logits(feeds, tokens))


def test_rows_do_not_see_each_other_nor_padding(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds, tokens = pair.feeds(2), pair.tokens(2, 12)
    session.encode(_numpy(feeds))
    together = np.concatenate([session.prefill(tokens.numpy()[:, :11]), session.decode(tokens.numpy()[:, 11])[:, None]], axis=1)
    for row in range(2):
        alone = _row(feeds, row)
        _close(together[row : row + 1], pair.logits(alone, tokens[row : row + 1]))
        session.encode(_numpy(alone))
        _close(together[row : row + 1], session.prefill(tokens.numpy()[row : row + 1]))


def test_what_was_read_counts(session: EncoderDecoderSession, pair: Pair) -> None:
    """The test's model would tell if the encoder's part were lost."""
    tokens = pair.tokens(2, 5).numpy()
    tokens[1] = tokens[0]
    session.encode(_numpy(pair.feeds(2)))
    said = session.prefill(tokens)
    assert np.abs(said[0] - said[1]).max() > 0.05


def test_forks_go_their_own_ways(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds, begun = pair.feeds(1), pair.tokens(1, 11)
    session.encode(_numpy(feeds))
    session.prefill(begun.numpy())
    fork = session.fork()
    said = {token: runner.decode([token]) for runner, token in ((session, 5), (fork, 6))}
    session.encode(_numpy(pair.feeds(2)))  # which the fork does not see
    again = fork.decode([7])
    for tokens, got in (((5,), said[5]), ((6,), said[6]), ((6, 7), again)):
        _close(got[0], pair.logits(feeds, torch.cat([begun, torch.tensor([tokens])], dim=1))[0, -1])
    assert (session.length, fork.length) == (0, 13)


def test_reset_keeps_what_was_read(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds, first, second = pair.feeds(2), pair.tokens(2, 8), pair.tokens(2, 9)
    session.encode(_numpy(feeds))
    session.prefill(first.numpy())
    session.reset()
    assert session.length == 0
    _close(session.prefill(second.numpy()), pair.logits(feeds, second))


def test_greedy_tokens_are_those_of_transformers(session: EncoderDecoderSession, pair: Pair) -> None:
    assert session.begin == (START,)
    feeds = pair.feeds(2)
    session.encode(_numpy(feeds))
    answers = _generated(session, 2, 64)
    assert answers == pair.greedy(feeds, 64)
    assert all(len(set(answer)) > 8 for answer in answers)  # it does not say one thing over and over
    assert answers[0] != answers[1]


def test_tokens_that_are_suppressed(session: EncoderDecoderSession, pair: Pair) -> None:
    feeds = pair.feeds(1)
    session.encode(_numpy(feeds))
    free = _generated(session, 1, 12)[0]
    never, first = [free[2], 10_000], [free[0]]
    session.reset()
    held = _generated(session, 1, 12, suppress=never, suppress_first=first)
    assert held == pair.greedy(feeds, 12, suppress_tokens=never, begin_suppress_tokens=first)
    assert held[0][0] != free[0]


def test_draws_differ_by_seed(session: EncoderDecoderSession, pair: Pair) -> None:
    session.encode(_numpy(pair.feeds(2)))
    drawn = []
    for seed in (1, 1, 2):
        session.reset()
        drawn.append(_generated(session, 2, 10, sampling=Sampling(1.5), seed=seed))
    assert drawn[0] == drawn[1] != drawn[2]


def test_generation_ends_where_the_positions_do(session: EncoderDecoderSession, pair: Pair) -> None:
    session.encode(_numpy(pair.feeds(1)))
    assert len(list(generate(session, pair.tokens(1, CAPACITY - 3).numpy(), max_new_tokens=64))) == 4
    assert session.full


def test_tokens_before_anything_was_read(session: EncoderDecoderSession) -> None:
    with pytest.raises(UsageError, match=r"tokens before encode: .* call encode\(feeds\) first"):
        session.prefill([[START]])


def test_other_rows_than_were_read(session: EncoderDecoderSession, pair: Pair) -> None:
    session.encode(_numpy(pair.feeds(2)))
    with pytest.raises(FeedError, match="got 1 rows of tokens, encode read 2; give one row for each"):
        session.prefill([[START]])
    session.prefill([[START], [START]])  # it is as it was


def test_tokens_take_no_padding(session: EncoderDecoderSession, pair: Pair) -> None:
    session.encode(_numpy(pair.feeds(2)))
    with pytest.raises(FeedError, match="takes no padding; give every row as many tokens"):
        session.prefill([[1, START], [START, 5]], [[0, 1], [1, 1]])


def test_inputs_that_the_encoder_does_not_have(session: EncoderDecoderSession) -> None:
    with pytest.raises(FeedError, match="unknown input 'pixels'"):
        session.encode({"pixels": np.zeros((1, 3), np.float32)})


def test_each_kind_of_bundle_has_its_own_session(pair: Pair, small: Small, tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="is an encoder-decoder; open it with load_encoder_decoder"):
        load_decoder(pair.bundle)
    for other in (small.bundle, tiny_bundle):
        with pytest.raises(UsageError, match="has no encoder beside its model: export an encoder-decoder with --cache dynamic"):
            load_encoder_decoder(other)


def test_a_closed_session(pair: Pair) -> None:
    session = load_encoder_decoder(pair.bundle)
    session.encode(_numpy(pair.feeds(1)))
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.prefill([[START]])
    with pytest.raises(UsageError, match="the session is closed"):
        session.encode(_numpy(pair.feeds(1)))
