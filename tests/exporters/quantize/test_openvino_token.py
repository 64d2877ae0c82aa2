"""A graph of its own for a single token on OpenVINO: the same file, compiled again, so that the numbers are those of one graph."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.benchmarking.stats import judged
from edgeattn.bundle import open_bundle
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.exams import RISE, Budget
from edgeattn.exporters.quantize.candidate import Timed, Workshop
from edgeattn.exporters.quantize.exams import text_exam
from edgeattn.exporters.quantize.kinds import CACHE, OPENVINO, kind, kinds_for, with_token
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.search import search
from edgeattn.exporters.quantize.stage import _written
from edgeattn.exporters.quantize.trials import Memory, Trials
from edgeattn.loading import open_session
from edgeattn.openvino_ir import read_ir
from edgeattn.runtimes.base import LoadOptions, Session
from tests.exporters.quantize.small_encoder import all_in, workshop
from tests.exporters.quantize.test_stage import check
from tests.exporters.quantize.trying import windows


def test_its_tokens_are_those_of_one_graph(decoder: Path, tmp_path: Path) -> None:
    shop = workshop(decoder, OPENVINO, tmp_path, windows(8))
    one = {**all_in(shop, "int8"), CACHE: kind(OPENVINO, "kv-fp16")}
    tokens, got = np.random.default_rng(0).integers(100, size=(1, 40)), []
    for name, kinds in (("one", one), ("both", with_token(one, one))):
        folder = tmp_path / name
        folder.mkdir()
        path, _ = shop.make(kinds, folder, "small")
        note = read_ir(path).note()
        assert note is not None
        assert note.token == (name == "both")
        with shop.load(path, kinds) as session:
            chain = DecoderSession(session)
            first = chain.prefill(tokens[:, :10], all_logits=False)[0]
            got.append(np.concatenate([first, *(chain.decode(tokens[:, i]) for i in range(10, 40))]))
            inner: Any = chain._chain
            assert (inner._single is not None) == (name == "both")
    np.testing.assert_array_equal(got[0], got[1])


def test_a_search_tries_the_fastest_with_it(decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third that is timed is the fastest here."""
    values = itertools.chain([0.9, 0.8, 0.7], itertools.repeat(1.5))

    def times(self: Workshop, sessions: Sequence[Session], over: Session) -> list[Timed]:
        return [Timed(value, value, value, judged(value, value), 1.0) for value in itertools.islice(values, len(sessions))]

    monkeypatch.setattr(Workshop, "times", times)
    shop = workshop(decoder, OPENVINO, tmp_path, windows(8))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, seed=1))
        found = search(Trials(shop, full, exam, Memory(shop, exam), lambda _: None), Budget(RISE, 1.0), 60.0)
    names = [each.name for each in kinds_for(OPENVINO)]
    assert [trial.name for trial in found[: len(names) + 1]] == [*names, f"{names[2]}, a token the same"]


def test_a_bundle_says_so(decoder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(decoder, work)
    shop = workshop(work, OPENVINO, tmp_path, windows(8))
    kinds = with_token(all_in(shop, "int8"), all_in(shop, "int8"))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, seed=1))
        trial = Trials(shop, full, exam, Memory(shop, exam), lambda _: None).run(kinds)
    assert trial.name == "int8, a token the same"
    outcome = Outcome("openvino:cpu", (trial,), trial, trial.scores, exam.samples)
    _written(shop.bundle, [(shop, outcome, exam)], keep=False)
    (flavour,) = open_bundle(work).manifest.flavours
    assert flavour.quantized is not None
    assert flavour.quantized.token == flavour.quantized.kinds == trial.used
    with load_decoder(work, OPENVINO) as session:
        assert "; a token the same" in session.session.effective.precision
    code, output = check(work)
    assert code == 0, output
