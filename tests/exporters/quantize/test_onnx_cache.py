"""A cache in int8 on ONNX Runtime: rounded as its scales say, taken and given in fp32, and kept in int8 in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.errors import RuntimeRunError, UsageError
from edgeattn.exporters.quantize.kinds import CACHE, ORT, kind
from edgeattn.exporters.quantize.onnx_cache import peaks
from edgeattn.exporters.quantize.onnx_file import read
from edgeattn.exporters.quantize.stage import Wish
from edgeattn.manifest import PAST
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.runtimes.ort_small_cache import Scales
from tests.exporters.quantize.small_encoder import workshop
from tests.exporters.quantize.test_stage import check, shrunk
from tests.exporters.quantize.trying import windows

TARGET = "onnxruntime:cpu"
TOKENS = np.random.default_rng(0).integers(250, size=(2, 48))


@pytest.fixture(scope="module")
def both(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the flavour at full precision and one whose cache alone is int8."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        work, _ = shrunk(decoder, folder, Wish(("kv-int8", "fp32"), slower=True), TARGET)
    return work


def logits(bundle: Path, precision: str, *chunks: np.ndarray) -> np.ndarray:
    """Behind every token, (B, S, V)."""
    with load_decoder(bundle, ORT, precision=precision) as session:
        return np.concatenate([session.prefill(chunk) for chunk in chunks], axis=1)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_text_is_read_alike_at_once_in_chunks_and_in_steps(both: Path, rows: int) -> None:
    tokens = TOKENS[:rows]
    full = logits(both, "fp32", tokens)
    whole = logits(both, "kv-int8", tokens)
    assert 1e-5 < np.abs(whole - full).max() < 0.3
    for chunks in (np.split(tokens, 3, axis=1), np.split(tokens, 48, axis=1)):
        np.testing.assert_allclose(logits(both, "kv-int8", *chunks), whole, atol=0.02)


def test_it_is_kept_in_a_quarter_of_the_bytes(both: Path) -> None:
    held = {}
    for precision in ("kv-int8", "fp32"):
        with load_decoder(both, ORT, precision=precision) as session:
            session.prefill(TOKENS)
            chain = session._chain
            held[precision] = {name: array.nbytes for name, array in chain._state.arrays.items()}  # type: ignore[union-attr]
            assert session.session.effective.kv_precision == ("int8" if precision == "kv-int8" else "fp32")
    assert held["fp32"] == {name: 4 * size for name, size in held["kv-int8"].items()}


def test_a_fork_and_a_reset(both: Path) -> None:
    with load_decoder(both, ORT, precision="kv-int8") as session:
        session.prefill(TOKENS[:1, :20])
        fork = session.fork()
        found = [session.decode([3]), fork.decode([7]), session.decode([4]), fork.decode([8])]
        for which, tokens in ((0, (3, 4)), (1, (7, 8))):
            session.reset()
            session.prefill(TOKENS[:1, :20])
            for step, token in enumerate(tokens):
                np.testing.assert_allclose(session.decode([token]), found[which + 2 * step], atol=1e-6)


def test_a_run_takes_and_gives_the_numbers_of_the_manifest(both: Path) -> None:
    """What a present holds is off by half a step at most, and is a past again without being rounded twice."""
    feeds = {
        "input_ids": TOKENS[:1, :12],
        "attention_mask": np.ones((1, 12), np.int64),
        "position_ids": np.arange(12)[None],
        "logits_to_keep": np.arange(12),
    }
    results = {}
    for precision in ("kv-int8", "fp32"):
        with edgeattn.load(both, ORT, precision=precision) as session:
            empty = {
                info.name: np.zeros([d if isinstance(d, int) else int(d != PAST) for d in info.dims], np.float32)
                for info in session.inputs
                if PAST in info.dims
            }
            results[precision] = session.run({**feeds, **empty})
            if precision == "kv-int8":
                inner = session._inner[0]
                scales = inner.scales  # type: ignore[attr-defined]
                assert {info.dtype for info in (*inner.inputs, *inner.outputs)} == {"float32", "int64"}
    for name, array in results["kv-int8"].items():
        if name.startswith("present"):
            assert array.dtype == np.float32
            stored = scales.stored(name, array)
            np.testing.assert_array_equal(scales.restored(name, stored), array)
    first = "present.0.key"  # of the first layer, whose inputs are those at full precision
    off = np.abs(results["kv-int8"][first] - results["fp32"][first])
    inside = np.abs(scales.stored(first, results["fp32"][first])) < 127
    assert (off <= scales.of[first][None, :, None] * 0.5001)[inside].all()
    assert off.max() > 0


def test_scales_are_the_largest_of_each_channel(decoder: Path, tmp_path: Path) -> None:
    shop = workshop(decoder, ORT, tmp_path, windows(3))
    found = peaks(read(shop.path), shop.calibrating())
    with edgeattn.load(decoder, ORT) as session:
        runs = [session.run({info.name: feeds[info.name] for info in session.inputs}) for feeds in shop.calibrating()]
    for name, peak in found.items():
        np.testing.assert_allclose(peak, np.max([np.abs(run[name]).max(axis=(0, 2)) for run in runs], axis=0), rtol=1e-4)
        assert peak.shape == runs[0][name].shape[1::2]


def test_the_bundle_holds_what_it_promises(both: Path) -> None:
    manifest = open_bundle(both).manifest
    (flavour,) = manifest.flavours_for(TARGET, "kv-int8")
    assert flavour.quantized is not None
    assert (flavour.quantized.kv, flavour.file) == ("int8", "onnxruntime-cpu-kv-int8.onnx")
    model = onnx.load(both / flavour.file, load_external_data=False)
    types = {port.name: port.type.tensor_type.elem_type for port in (*model.graph.input, *model.graph.output)}
    assert {kind for name, kind in types.items() if name.startswith(("past", "present"))} == {onnx.TensorProto.INT8}
    code, output = check(both)
    assert code == 0, output


def test_with_smaller_weights(decoder: Path, tmp_path: Path) -> None:
    _, outcomes = shrunk(decoder, tmp_path, Wish(("int8+kv-int8",), slower=True), TARGET)
    assert outcomes[0].trials[0].name == "int8 + kv-int8"


def test_a_file_that_does_not_say_its_scales(decoder: Path) -> None:
    bundle = open_bundle(decoder)
    flavour = bundle.manifest.flavour(TARGET)
    assert flavour is not None
    path, runtime = bundle.file(flavour.file), registry.get(ORT)
    with pytest.raises(RuntimeRunError, match="does not say what its int8 cache stands for"):
        runtime.load(path, LoadOptions(cache=flavour.cache, kv="int8"))
    with pytest.raises(UsageError, match="type of a cache"):
        runtime.load(path, LoadOptions(cache=flavour.cache, kv="int3"))


def test_a_model_without_a_cache(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kv-int8 is for a cache that the runtime keeps itself"):
        shrunk(encoder, tmp_path, Wish(("kv-int8",), slower=True), TARGET)
    assert kind(ORT, "kv-int8").cache == "int8"
    assert CACHE not in workshop(encoder, ORT, tmp_path).layers


def test_scales_in_words() -> None:
    scales = Scales({"a": np.array([[0.5, 2.0]], np.float32)})
    again = Scales.loads(scales.dumps())
    np.testing.assert_array_equal(again.of["a"], scales.of["a"])
    past = np.array([0.6, -1000.0, 0.2, 3.1], np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(again.stored("a", past).ravel(), [1, -128, 0, 2])
    with pytest.raises(ValueError, match="reshape"):
        Scales.loads('{"a": [[2, 2], "AAAAAAAAAAA="]}')
