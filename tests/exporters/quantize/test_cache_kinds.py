"""A cache that OpenVINO keeps, in less than fp32: really so, only where it is seen, and with the weights of full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.errors import UsageError
from edgeattn.exams import RISE, Budget
from edgeattn.exporters.quantize.candidate import Timed
from edgeattn.exporters.quantize.exams import text_exam
from edgeattn.exporters.quantize.kinds import CACHE, OPENVINO, kind, kinds_of
from edgeattn.exporters.quantize.search import search
from edgeattn.exporters.quantize.stage import Wish
from edgeattn.exporters.quantize.trials import Memory, Trial, Trials, holding
from edgeattn.loading import open_session
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from tests.exporters.quantize.small_encoder import workshop
from tests.exporters.quantize.test_stage import OV, check, shrunk
from tests.exporters.quantize.trying import windows

NAMES = {"kv-fp16": "fp16", "kv-int8": "uint8"}
"""A kind, and what the session says of it."""


def logits(bundle: Path, precision: str, chunks: int) -> np.ndarray:
    """Of a text read in so many chunks, (1, 1, V)."""
    tokens = np.random.default_rng(0).integers(250, size=(1, 48))
    with load_decoder(bundle, "openvino", precision=precision) as session:
        return [session.prefill(chunk, all_logits=False) for chunk in np.split(tokens, chunks, axis=1)][-1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_from_the_cache_is_rounded_and_nothing_else(name: str, decoder: Path, tmp_path: Path) -> None:
    work, _ = shrunk(decoder, tmp_path, Wish((name, "fp32"), slower=True), OV)
    np.testing.assert_array_equal(logits(work, name, 1), logits(work, "fp32", 1))
    off = np.abs(logits(work, name, 2) - logits(work, "fp32", 2)).max()
    assert (1e-6 if name == "kv-fp16" else 1e-4) < off < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_file_of_full_precision(name: str, decoder: Path, tmp_path: Path) -> None:
    work, outcomes = shrunk(decoder, tmp_path, Wish((name,), slower=True), OV)
    manifest = open_bundle(work).manifest
    assert [(flavour.precision, flavour.file) for flavour in manifest.flavours] == [(name, "openvino-cpu.xml")]
    assert [file.name for file in work.glob("*.bin")] == ["weights-fp32.bin"]
    assert outcomes[0].trials[0].size == sum((work / file).stat().st_size for file in ("openvino-cpu.xml", "weights-fp32.bin"))
    with edgeattn.load(work, "openvino") as session:
        assert session.effective.kv_precision == NAMES[name]
        assert session.effective.details["execution mode"] == "performance"
    code, output = check(work)
    assert code == 0, output


def test_with_smaller_weights(decoder: Path, tmp_path: Path) -> None:
    work, outcomes = shrunk(decoder, tmp_path, Wish(("int8+kv-int8",), slower=True), OV)
    (flavour,) = open_bundle(work).manifest.flavours
    assert flavour.quantized is not None
    assert (flavour.precision, flavour.quantized.kv, outcomes[0].trials[0].name) == ("int8", "int8", "int8 + kv-int8")
    with load_decoder(work, "openvino") as session:
        session.prefill(np.arange(1, 9)[None])
        fork = session.fork()
        expected = session.decode([3])
        np.testing.assert_allclose(fork.decode([3]), expected, atol=1e-3)


def test_a_search_tries_it_with_the_best_so_far(decoder: Path, tmp_path: Path) -> None:
    shop = workshop(decoder, OPENVINO, tmp_path, windows(8))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, seed=1))
        trials = Trials(shop, full, exam, Memory(shop, exam), lambda _: None)
        found = search(trials, Budget(RISE, 1.0), 60.0)
        eighth, half = found[-2:]
        assert (eighth.kv, half.kv) == ("int8", "fp16")
        assert eighth.used == half.used
        layers = {layer: kind for layer, kind in half.kinds.items() if layer != CACHE}
        assert layers in [{}, *(trial.kinds for trial in found[:-2])]  # which was faster then, and is timed again since
        assert eighth.scores != half.scores


def test_whose_cache_is_smaller_is_settled_side_by_side(decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[list[Trial]] = []
    real = Trials.side_by_side

    def turned_round(self: Trials, finalists: Sequence[Trial]) -> list[Trial]:
        again = real(self, finalists)
        rounds.append(again)
        values = [0.5 - 0.1 * place for place in range(len(again))]
        times = [Timed(value, value, value, "faster", 1.0) for value in values]  # the last of them is the fastest now
        return [replace(trial, time=time) for trial, time in zip(again, times, strict=True)]

    monkeypatch.setattr(Trials, "side_by_side", turned_round)
    shop = workshop(decoder, OPENVINO, tmp_path, windows(8))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, seed=1))
        found = search(Trials(shop, full, exam, Memory(shop, exam), lambda _: None), Budget(RISE, 1.0), 60.0)
    first, second = rounds
    best = first[-1].kinds
    assert [trial.kinds for trial in found[-2:]] == [{**best, CACHE: kind(OPENVINO, f"kv-{name}")} for name in ("int8", "fp16")]
    assert sorted(trial.name for trial in second) == sorted(trial.name for trial in (*first, *found[-2:]))
    assert holding(found, Budget(RISE, 1.0))[0].kinds == second[-1].kinds


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kv-fp16+kv-int8", "'kv-fp16.kv-int8': kv-fp16 and kv-int8 are for the same numbers; give one of them"),
        ("int8+int4", "int8 and int4 are for the same numbers"),
        ("int8+kv", "unknown precision for openvino 'kv'"),
    ],
)
def test_names_that_say_nothing(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kinds_of(OPENVINO, name)


def test_a_cache_that_the_runtime_does_not_keep(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="kv-fp16 is for a cache that the runtime keeps itself; the flavour for openvino:cpu has"
    ):
        shrunk(encoder, tmp_path, Wish(("kv-fp16",), slower=True), OV)


def test_a_type_that_openvino_does_not_have(decoder: Path) -> None:
    bundle = open_bundle(decoder)
    flavour = bundle.manifest.flavour(OV)
    assert flavour is not None
    with pytest.raises(UsageError, match="type of a cache"):
        registry.get(OPENVINO).load(bundle.file(flavour.file), LoadOptions(kv="int3"))
