"""ONNX Runtime writes the cache where it reads it: nothing is copied for a step, and nothing beyond what is used counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edgeattn.bundle import open_bundle
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.manifest import LOGITS
from edgeattn.runtimes import ort_binding, ort_shared_cache
from edgeattn.runtimes.base import LoadOptions
from edgeattn.runtimes.onnxruntime import OnnxRuntime
from tests.edgeattn.decoding.small import Small

Array = NDArray[Any]


@pytest.fixture
def session(small: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderSession]:
    """With buffers that grow by 8 positions, so that a short text crosses several borders."""
    monkeypatch.setattr(ort_shared_cache, "ROOM", 8)
    with load_decoder(small.bundle, "onnxruntime") as loaded:
        yield loaded


def _buffers(session: DecoderSession) -> dict[str, Array]:
    chain: Any = session._chain
    arrays: dict[str, Array] = chain._state.arrays
    return arrays


def _bound(session: DecoderSession) -> Any:
    """Its binding."""
    chain: Any = session._chain
    return chain._bound[1]


def _close(got: Array, expected: Array) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


def test_the_flavour_says_so(small: Small) -> None:
    flavour = open_bundle(small.bundle).manifest.flavour("onnxruntime:cpu")
    assert flavour is not None
    assert flavour.cache == "shared"
    assert set(flavour.lowerings.values()) == {"contrib-gqa-cache"}
    portable = open_bundle(small.bundle).manifest.flavour("portable")
    assert portable is not None
    assert portable.cache == ""


def test_growing_buffers_are_the_uncached_pass(session: DecoderSession, small: Small) -> None:
    tokens = torch.randint(100, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = small.logits(tokens)
    _close(session.prefill(tokens.numpy()[:, :5]), expected[:, :5])
    for i in range(5, 40):
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i])
    assert {array.shape[2] for array in _buffers(session).values()} == {40}


def test_chunks_of_several_rows_behind_a_past(session: DecoderSession, small: Small) -> None:
    tokens = torch.randint(100, (3, 31), generator=torch.Generator().manual_seed(1))
    parts = [session.prefill(tokens.numpy()[:, a:b]) for a, b in ((0, 2), (2, 13), (13, 31))]
    _close(np.concatenate(parts, axis=1), small.logits(tokens))


def test_a_step_stays_in_its_buffers(session: DecoderSession) -> None:
    session.prefill([[1, 2, 3]])
    before = {name: (array.ctypes.data, array[:, :, :3].copy()) for name, array in _buffers(session).items()}
    session.decode([4])
    for name, array in _buffers(session).items():
        assert array.ctypes.data == before[name][0]
        np.testing.assert_array_equal(array[:, :, :3], before[name][1])
        assert array[:, :, 3].any()


def test_what_lies_beyond_the_used_part_does_not_count(session: DecoderSession, small: Small) -> None:
    tokens = torch.randint(100, (1, 20), generator=torch.Generator().manual_seed(2))
    expected = small.logits(tokens)
    session.prefill(tokens.numpy()[:, :9])
    for i in range(9, 20):
        for array in _buffers(session).values():
            array[:, :, i:] = np.nan
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i])


def test_a_fork_shares_until_one_goes_on(session: DecoderSession, small: Small) -> None:
    prompt, ways = [5, 9, 4, 7], ([11, 12, 13], [21, 22, 23])
    session.prefill([prompt])
    other = session.fork()
    assert _buffers(other) is _buffers(session)
    expected = [small.logits(torch.tensor([prompt + way])) for way in ways]
    for i in range(3):  # in turn, so that each would overwrite what the other reads
        for chain, way, logits in zip((session, other), ways, expected, strict=True):
            _close(chain.decode([way[i]]), logits[:, len(prompt) + i])


def test_a_growth_that_ends_halfway(session: DecoderSession, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some buffers are new then and others are not: the binding of the step before knows neither."""
    tokens = torch.randint(100, (1, 12), generator=torch.Generator().manual_seed(3))
    expected = small.logits(tokens)
    session.prefill(tokens.numpy()[:, :5])
    session.decode(tokens.numpy()[:, 5])
    buffer = ort_shared_cache._buffer
    made: list[int] = []

    def once(held: Array, total: int) -> Array:
        if made:
            raise MemoryError
        made.append(total)
        return buffer(held, total)

    with monkeypatch.context() as patched:
        patched.setattr(ort_shared_cache, "_buffer", once)
        with pytest.raises(MemoryError):
            session.prefill(tokens.numpy()[:, 6:12])
    chain: Any = session._chain
    assert chain._bound is None
    for i in range(6, 12):
        _close(session.decode(tokens.numpy()[:, i]), expected[:, i])


def test_an_output_whose_sizes_feeds_do_not_tell(small: Small, tmp_path: Path) -> None:
    """ONNX Runtime finds room for it then, for each step anew."""
    bundle = open_bundle(small.bundle)
    flavour = bundle.manifest.flavour("onnxruntime:cpu")
    assert flavour is not None
    model = onnx.load(bundle.file(flavour.file))
    next(value for value in model.graph.output if value.name == LOGITS).type.tensor_type.shape.dim[1].dim_param = "unknown"
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True)
    tokens = torch.randint(100, (2, 9), generator=torch.Generator().manual_seed(4))
    expected = small.logits(tokens)
    with OnnxRuntime().load(tmp_path / "model.onnx", LoadOptions(cache=flavour.cache)) as inner:
        session = DecoderSession(inner)
        _close(session.prefill(tokens.numpy()[:, :5]), expected[:, :5])
        kept = [session.decode(tokens.numpy()[:, i]) for i in range(5, 9)]
        assert _bound(session)._unsized == [LOGITS]
    _close(np.stack(kept, axis=1), expected[:, 5:])


def test_logits_are_the_callers(session: DecoderSession, small: Small) -> None:
    """They are copies of what is written in the same place again."""
    tokens = torch.randint(100, (1, 8), generator=torch.Generator().manual_seed(5))
    kept = [session.prefill(tokens.numpy()[:, :4])[:, -1], *(session.decode(tokens.numpy()[:, i]) for i in range(4, 8))]
    assert list(_bound(session)._written) == [LOGITS]
    _close(np.stack(kept, axis=1), small.logits(tokens)[:, 3:])


def test_logits_that_are_too_large_to_copy(session: DecoderSession, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has an array of its own for them; what is smaller has one place again behind them."""
    tokens = torch.randint(100, (1, 12), generator=torch.Generator().manual_seed(6))
    expected = small.logits(tokens)
    one = expected[:, :1].nbytes
    monkeypatch.setattr(ort_binding, "_COPIED", one)
    parts, places = [], []
    for a, b in ((0, 3), (3, 6), (6, 7), (7, 8), (8, 11), (11, 12)):
        parts.append(session.prefill(tokens.numpy()[:, a:b]))
        places.append(LOGITS in _bound(session)._written)
    assert places == [False, False, True, True, False, True]
    _close(np.concatenate(parts, axis=1), expected)
