"""A graph of its own for a single token on OpenVINO: the same file, compiled again, so that the numbers are those of one graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.bundle import open_bundle
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.exams import RISE, Budget
from edgeattn.exporters.quantize.exams import text_exam
from edgeattn.exporters.quantize.kinds import CACHE, OPENVINO, kind, with_token
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.search import search
from edgeattn.exporters.quantize.stage import _written
from edgeattn.exporters.quantize.trials import Memory, Trials
from edgeattn.loading import open_session
from edgeattn.openvino_ir import read_ir
from edgeattn.runtimes.base import LoadOptions
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


def test_a_search_tries_the_fastest_with_it(decoder: Path, tmp_path: Path) -> None:
    shop = workshop(decoder, OPENVINO, tmp_path, windows(8))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, seed=1))
        found = search(Trials(shop, full, exam, Memory(shop, exam), lambda _: None), Budget(RISE, 1.0), 60.0)
    faster = [trial for trial in found if trial.faster and CACHE not in trial.kinds and not trial.token]
    pairs = [trial for trial in found if trial.token]
    assert all(trial.token == trial.used for trial in pairs)
    assert len({tuple(trial.used) for trial in pairs}) == (1 if faster else 0)


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
