"""On OpenVINO a bundle may have its model compiled for a single token too: the same numbers, whichever of the two runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.errors import RuntimeRunError
from edgeattn.runtimes import openvino_stateful
from tests.edgeattn.decoding.small import Small, one_token

Array = NDArray[Any]


@pytest.fixture
def session(token_bundle: Path) -> Iterator[DecoderSession]:
    with load_decoder(token_bundle, "openvino") as loaded:
        yield loaded


def _single(session: DecoderSession) -> bool:
    """Whether the cache is with the model of a token."""
    chain: Any = session._chain
    assert chain._states in (chain._whole, chain._single)
    return chain._states is chain._single


def _text(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(100, (rows, length), generator=torch.Generator().manual_seed(length))


def _close(got: Array, expected: Array) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


def _dynamic(compiled: Any) -> int:
    nodes = compiled.get_runtime_model().get_ops()
    return sum(port.partial_shape.is_dynamic for node in nodes for port in node.outputs())


def test_few_sizes_are_open_in_it(session: DecoderSession, small: Small) -> None:
    inner: Any = session.session
    whole, token = inner._inner[0]._compiled, inner._inner[0]._token
    assert _dynamic(token) < _dynamic(whole) / 4
    with load_decoder(small.bundle, "openvino") as other:
        plain: Any = other.session
        assert plain._inner[0]._token is None


def test_the_cache_goes_where_it_is_read(session: DecoderSession, small: Small) -> None:
    tokens = _text(30)
    expected = small.logits(tokens)
    parts, places = [], []
    for a, b in ((0, 9), (9, 10), (10, 11), (11, 20), (20, 21), (21, 29), (29, 30)):
        parts.append(session.prefill(tokens.numpy()[:, a:b]))
        places.append(_single(session))
    assert places == [b - a == 1 for a, b in ((0, 9), (9, 10), (10, 11), (11, 20), (20, 21), (21, 29), (29, 30))]
    _close(np.concatenate(parts, axis=1), expected)


def test_it_stays_until_moving_has_paid(session: DecoderSession, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_stateful, "_PAID", 2)
    tokens = _text(40)
    expected, places = small.logits(tokens), []
    session.prefill(tokens.numpy()[:, :10])
    for i in range(10, 40):
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i])
        places.append(_single(session))
    assert places == [2 * count > 10 + count - 1 for count in range(1, 31)]
    assert 0 < sum(places) < 30


def test_several_rows_are_not_for_it(session: DecoderSession, small: Small) -> None:
    tokens = _text(6, rows=2)
    session.prefill(tokens.numpy()[:, :5])
    _close(session.decode(tokens.numpy()[:, 5]), small.logits(tokens)[:, 5])
    assert not _single(session)


def test_from_an_empty_cache_and_after_a_reset(session: DecoderSession, small: Small) -> None:
    tokens = _text(8)
    expected = small.logits(tokens)
    for _ in range(2):
        _close(session.prefill(tokens.numpy()[:, :1]), expected[:, :1])
        assert _single(session)
        _close(session.prefill(tokens.numpy()[:, 1:7]), expected[:, 1:7])
        _close(session.decode(tokens.numpy()[:, 7]), expected[:, 7])
        chain: Any = session._chain
        chain.reset()
        assert not _single(session)
        session.reset()


def test_padding_in_front(session: DecoderSession, small: Small) -> None:
    tokens = _text(12)
    expected = small.logits(tokens[:, 4:])
    session.prefill(tokens.numpy()[:, :9], np.arange(9)[None] >= 4)
    for i in (9, 10, 11):
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i - 4])
        assert _single(session)


def test_a_failed_token_leaves_the_cache(session: DecoderSession, small: Small) -> None:
    tokens = _text(12)
    expected = small.logits(tokens)
    session.prefill(tokens.numpy()[:, :10])
    chain: Any = session._chain
    with pytest.raises(RuntimeRunError):
        chain.step(one_token(1, 10, 5))
    for i in (10, 11):
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i])
        assert _single(session)


def test_forks_on_either_side(session: DecoderSession, small: Small) -> None:
    tokens = _text(14)
    expected = small.logits(tokens)
    session.prefill(tokens.numpy()[:, :10])
    session.decode(tokens.numpy()[:, 10])
    assert _single(session)
    fork = session.fork()
    session.decode([3])
    _close(fork.prefill(tokens.numpy()[:, 11:13]), expected[:, 11:13])
    _close(fork.decode(tokens.numpy()[:, 13]), expected[:, 13])
