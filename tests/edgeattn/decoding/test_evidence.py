"""The text in a bundle: every way of reading it is held to PyTorch's whole pass, and a wrong one is noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import edgeattn
from edgeattn.bundle import open_bundle, seal
from edgeattn.cli import cli
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.decoding.evidence import readings, summary
from edgeattn.exporters.decoding_evidence import decoding_evidence
from edgeattn.golden import Golden
from edgeattn.runtimes.carrying import Carried
from edgeattn.runtimes.ort_shared_cache import SharedCache
from edgeattn.tensors import read_tensors, write_tensors
from tests.edgeattn.decoding.small import RUNTIMES, Small

WAYS = ["whole", "chunks", "token by token", "beside a fork", "greedy"]


@pytest.fixture(scope="module")
def text(small: Small) -> Golden:
    return decoding_evidence(lambda tokens: small.model(tokens, use_cache=False).logits, limit=96)


def test_a_summary_keeps_the_highest_and_the_sum() -> None:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    kept = summary(logits.numpy())
    expected = logits.topk(8)
    np.testing.assert_array_equal(kept["ids"], expected.indices)
    np.testing.assert_array_equal(kept["highest"], expected.values)
    np.testing.assert_allclose(kept["log_sum_exp"], logits.logsumexp(-1), atol=1e-6)


def test_the_greedy_tokens_are_those_of_transformers(small: Small, text: Golden) -> None:
    prompt = torch.from_numpy(text.inputs["prompt"])
    assert text.outputs["greedy"].tolist() == small.greedy(prompt, 64)


def test_every_way_is_right(session: DecoderSession, text: Golden) -> None:
    found = list(readings(session, text))
    assert [reading.name for reading in found] == WAYS
    assert all(row.passed and row.elements for reading in found for row in reading.comparisons)
    assert session.length == 0


class _Forgetful(DecoderSession):
    """Wrong: what the cache holds of the last token is lost once more is read."""

    def _advance(self, new: Any, real: Any, kept: Any) -> NDArray[np.float32]:
        if self.length:
            mask = self._read.mask.copy()
            mask[:, -1] = 0
            self._read = replace(self._read, mask=mask)
        return super()._advance(new, real, kept)


def test_a_lost_position_is_noticed(small: Small, text: Golden) -> None:
    with load_decoder(small.bundle) as inner:
        session = _Forgetful(inner.session, 96)
        passed = {reading.name: all(row.passed for row in reading.comparisons) for reading in readings(session, text)}
    assert passed["whole"]
    assert not any(passed[name] for name in ("chunks", "token by token", "beside a fork"))


def _failed(session: DecoderSession, text: Golden) -> list[str]:
    return [reading.name for reading in readings(session, text) if not all(row.passed for row in reading.comparisons)]


def test_buffers_that_a_fork_writes_too_are_noticed(small: Small, text: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedCache, "fork", Carried.fork)  # nobody is told that the buffers are shared
    with load_decoder(small.bundle, "onnxruntime") as session:
        assert _failed(session, text) == ["beside a fork"]


class _ForkForgets(DecoderSession):
    """Wrong: a fork loses the last token, the session goes on as it should."""

    def fork(self) -> Self:
        other = super().fork()
        mask = other._read.mask.copy()
        mask[:, -1] = 0
        other._read = replace(other._read, mask=mask)
        return other


def test_a_wrong_fork_is_noticed(small: Small, text: Golden) -> None:
    with load_decoder(small.bundle) as inner:
        assert _failed(_ForkForgets(inner.session, 96), text) == ["beside a fork"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_check_reads_the_text(small: Small, runtime: str) -> None:
    result = CliRunner().invoke(cli, ["check", str(small.bundle), "-r", runtime, "--json"])
    assert result.exit_code == 0, result.output
    names = [case["name"] for case in json.loads(result.stdout)["targets"][0]["cases"]]
    assert names[-5:] == [f"text {way}" for way in WAYS]


def test_a_text_that_does_not_fit_is_refused(small: Small, tmp_path: Path) -> None:
    shutil.copytree(small.bundle, tmp_path / "b")
    opened = open_bundle(tmp_path / "b")
    case = opened.manifest.decoding
    assert case is not None
    path = tmp_path / "b" / case.file
    tensors = {name: np.array(array) for name, array in read_tensors(path).items()}
    tensors["out.ids"] = tensors["out.ids"][:, :-1]
    write_tensors(path, tensors)
    seal(tmp_path / "b", opened.manifest)
    with pytest.raises(edgeattn.errors.BundleError, match="do not go together"):
        edgeattn.check(tmp_path / "b")
