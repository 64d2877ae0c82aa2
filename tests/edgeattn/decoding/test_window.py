"""Where every layer has a window, the cache stops growing, and what the model says stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeattn.bundle import open_bundle
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.decoding import session as module
from edgeattn.decoding.opening import reach
from edgeattn.runtimes import ort_shared_cache
from tests.edgeattn.decoding.small import RUNTIMES, WINDOW, Small

Array = NDArray[Any]
SLACK = 5


@pytest.fixture(params=[*RUNTIMES, "portable"])
def session(request: pytest.FixtureRequest, small: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderSession]:
    """With little slack, so that a short text drops positions several times."""
    monkeypatch.setattr(module, "SLACK", SLACK)
    monkeypatch.setattr(ort_shared_cache, "ROOM", 4)
    if request.param != "portable":
        with load_decoder(small.bundle, request.param) as loaded:
            yield loaded
        return
    from edgeattn.loading import load

    opened = open_bundle(small.bundle)
    with load(opened, flavour="portable") as inner:
        yield DecoderSession(inner, window=reach(opened.manifest))


def test_the_window_is_that_of_the_model(session: DecoderSession) -> None:
    assert session.window == WINDOW - 1  # transformers counts the position itself


def test_far_beyond_the_window_is_the_uncached_pass(session: DecoderSession, small: Small) -> None:
    """Two rows, one with padding in front; in chunks, then token by token."""
    rows = [torch.randint(200, (1, length), generator=torch.Generator().manual_seed(length)) for length in (60, 51)]
    tokens, mask = np.zeros((2, 60), dtype=np.int64), np.ones((2, 60), dtype=np.int64)
    tokens[0], tokens[1, 9:], mask[1, :9] = rows[0], rows[1], 0
    parts = [session.prefill(tokens[:, a:b], mask[:, a:b]) for a, b in ((0, 14), (14, 31), (31, 33))]
    parts += [session.decode(tokens[:, i])[:, None] for i in range(33, 60)]
    logits = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(logits[0], small.logits(rows[0])[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(logits[1, 9:], small.logits(rows[1])[0], rtol=0, atol=2e-4)
    assert session.length == 60
    assert session._read.mask.shape[1] <= WINDOW - 1 + SLACK


def test_a_fork_keeps_what_the_other_drops(session: DecoderSession, small: Small) -> None:
    tokens = torch.randint(200, (1, 30), generator=torch.Generator().manual_seed(3))
    expected = small.logits(tokens)
    session.prefill(tokens.numpy()[:, :10])
    fork = session.fork()
    for i in range(10, 30):
        session.decode(tokens.numpy()[:, i])
    for i in range(10, 30):
        np.testing.assert_allclose(fork.decode(tokens.numpy()[:, i]), expected[:, i], rtol=0, atol=2e-4)
