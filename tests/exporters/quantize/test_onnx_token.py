"""A graph of its own for a single token: run where it may be and nowhere else, and the same model there."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import transformers
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.decoding.session import DecoderSession
from edgeattn.exams import RISE, Budget
from edgeattn.exporters.quantize import onnx_io
from edgeattn.exporters.quantize.candidate import Timed, Workshop
from edgeattn.exporters.quantize.exams import text_exam
from edgeattn.exporters.quantize.kinds import CACHE, ORT, for_prompts, for_token, kind, with_token
from edgeattn.exporters.quantize.onnx_file import read
from edgeattn.exporters.quantize.onnx_token import for_one_token, joined
from edgeattn.exporters.quantize.outcome import Outcome
from edgeattn.exporters.quantize.search import _with_token
from edgeattn.exporters.quantize.stage import _written
from edgeattn.exporters.quantize.trials import Memory, Trial, Trials, holding
from edgeattn.loading import open_session
from edgeattn.runtimes.base import LoadOptions
from tests.edgeattn.decoding.small import write_model
from tests.exporters.quantize.small_encoder import all_in, workshop
from tests.exporters.quantize.test_stage import check
from tests.exporters.quantize.trying import windows

LIMIT = 64
KEYS, SIZE = 2, 16
FILE = "onnxruntime-cpu.onnx"

Feeds = dict[str, NDArray[Any]]


def exported(folder: Path, config: type[Any], **settings: Any) -> Path:
    """A decoder whose attention sees everything before it, with heads that the operator can turn."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": LIMIT}
    write_model(folder / "source", config, **sizes, **settings)
    edgeattn.export(str(folder / "source"), output=folder / "out", runtimes=["onnxruntime:cpu"], cache=True)
    return folder / "out"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it."""
    return exported(tmp_path_factory.mktemp("llama"), transformers.LlamaConfig)


def feeds(
    past: int = 3,
    new: int = 1,
    rows: int = 1,
    position: int | None = None,
    padded: bool = False,
    layers: int = 2,
    size: int = SIZE,
) -> Feeds:
    """`new` tokens behind a random past; of a row that is `padded`, its first position is no token."""
    rng = np.random.default_rng(past)
    mask = np.ones((rows, past + new), dtype=np.int64)
    mask[-1, 0] = int(not padded)
    first = past if position is None else position
    cache = {
        f"past_key_values.{i}.{part}": rng.standard_normal((rows, KEYS, past, size)).astype(np.float32)
        for i in range(layers)
        for part in ("key", "value")
    }
    return {
        "input_ids": rng.integers(100, size=(rows, new)),
        "attention_mask": mask,
        "position_ids": np.tile(np.arange(first, first + new), (rows, 1)),
        "logits_to_keep": np.arange(new),
        **cache,
    }


def run(model: onnx.ModelProto, folder: Path, fed: Feeds) -> dict[str, NDArray[Any]]:
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    onnx_io.write(onnx_io.copied(model), path, f"{path.stem}.bin")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def with_twice_the_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """So that it is seen which of two graphs was run."""
    changed = onnx_io.copied(model)
    head = next(node for node in changed.graph.node if "logits" in node.output)
    weights = next(tensor for tensor in changed.graph.initializer if tensor.name == head.input[1])
    weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), weights.name))
    return changed


@pytest.mark.parametrize(
    ("fed", "factor"),
    [
        (feeds(), 2),
        (feeds(past=0), 2),
        (feeds(position=40), 2),  # rotary positions are those that are given
        (feeds(position=LIMIT - 1), 2),
        (feeds(position=LIMIT), 1),
        (feeds(position=-1), 1),
        (feeds(new=2), 1),
        (feeds(past=0, new=5), 1),
        (feeds(rows=2), 1),
        (feeds(padded=True), 1),
    ],
    ids=["step", "first", "elsewhere", "last", "beyond", "before", "chunk", "prompt", "rows", "padded"],
)
def test_one_token_has_its_own_graph_and_everything_else_the_other(
    fed: Feeds, factor: int, llama: Path, tmp_path: Path
) -> None:
    prompts, token = read(llama / FILE), for_one_token(llama / FILE, LIMIT)
    expected = run(prompts, tmp_path, fed)
    got = run(joined(prompts, with_twice_the_logits(token), LIMIT), tmp_path, fed)
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array * (factor if name == "logits" else 1), atol=2e-4, err_msg=name)


def test_it_has_few_operators(llama: Path) -> None:
    found = operators(for_one_token(llama / FILE, LIMIT))
    assert found["GroupQueryAttention"] == 2
    assert found["SkipSimplifiedLayerNormalization"] == 4  # of five: nothing is added before the first
    assert not found.keys() & {"RotaryEmbedding", "Cos", "Where", "LessOrEqual"}
    assert found["Split"] == 2  # of a gate and what it opens


STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (transformers.LlamaConfig, {"rope_parameters": STRETCHED}),
        (transformers.Qwen3Config, {"head_dim": SIZE}),
        (transformers.Qwen2Config, {}),
        (transformers.PhiConfig, {"partial_rotary_factor": 0.5}),
    ],
    ids=["stretched positions", "normalized queries", "biases", "half of a head turned"],
)
def test_other_families_keep_their_numbers(config: type[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    path = exported(tmp_path, config, **settings) / FILE
    token = for_one_token(path, LIMIT)
    assert ("RotaryEmbedding" in operators(token)) == (config is transformers.PhiConfig)
    (tmp_path / "runs").mkdir()
    for fed in (feeds(past=0), feeds(), feeds(position=50)):
        for name, array in run(read(path), tmp_path / "runs", fed).items():
            np.testing.assert_allclose(run(token, tmp_path / "runs", fed)[name], array, atol=2e-4, err_msg=name)


def test_a_window_is_still_said_and_small_heads_are_turned_outside(decoder: Path, tmp_path: Path) -> None:
    token = for_one_token(decoder / FILE, LIMIT)
    assert operators(token)["RotaryEmbedding"] == 4
    fed = feeds(past=30, size=8)
    for name, array in run(read(decoder / FILE), tmp_path, fed).items():
        np.testing.assert_allclose(run(token, tmp_path, fed)[name], array, atol=2e-4, err_msg=name)


def test_positions_that_depend_on_the_length_are_not_tabled(llama: Path, tmp_path: Path) -> None:
    """Some models stretch their positions when a text gets long."""
    model = onnx.load(llama / FILE)
    place, cosine = next((place, node) for place, node in enumerate(model.graph.node) if node.op_type == "Cos")
    angles = cosine.input[0]
    for node in model.graph.node:
        node.input[:] = ["stretched" if name == angles and node.op_type in ("Cos", "Sin") else name for name in node.input]
    last = {"keepdims": 0, "noop_with_empty_axes": 0}
    for node in reversed(
        [
            helper.make_node("ReduceMax", ["position_ids"], ["last"], **last),
            helper.make_node("Cast", ["last"], ["last_number"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [angles, "last_number"], ["stretched"]),
        ]
    ):
        model.graph.node.insert(place, node)
    onnx.save(model, tmp_path / "stretched.onnx")
    token = for_one_token(tmp_path / "stretched.onnx", LIMIT)
    assert operators(token)["RotaryEmbedding"] == 4
    (tmp_path / "runs").mkdir()
    for name, array in run(read(tmp_path / "stretched.onnx"), tmp_path / "runs", feeds()).items():
        np.testing.assert_allclose(run(token, tmp_path / "runs", feeds())[name], array, atol=2e-4, err_msg=name)


def test_without_a_limit_there_is_no_table(llama: Path, tmp_path: Path) -> None:
    token = for_one_token(llama / FILE, None)
    assert operators(token)["RotaryEmbedding"] == 4
    both = joined(read(llama / FILE), with_twice_the_logits(token), None)
    fed = feeds(position=5000)
    expected = run(read(llama / FILE), tmp_path, fed)["logits"]
    np.testing.assert_allclose(run(both, tmp_path, fed)["logits"], 2 * expected, rtol=1e-3, atol=1e-3)


def test_graphs_of_other_operator_sets_are_not_joined(llama: Path) -> None:
    prompts, token = read(llama / FILE), for_one_token(llama / FILE, LIMIT)
    next(entry for entry in token.opset_import if not entry.domain).version += 1
    with pytest.raises(ValueError, match=r"version \d+ of ai\.onnx"):
        joined(prompts, token, LIMIT)


def test_weights_alike_are_written_once(llama: Path) -> None:
    prompts, token = read(llama / FILE), for_one_token(llama / FILE, LIMIT)
    both = joined(prompts, token, LIMIT)
    shared = {tensor.name for tensor in both.graph.initializer}
    assert {tensor.name for tensor in prompts.graph.initializer if np.prod(tensor.dims) > 1000} <= shared
    assert both.ByteSize() < 1.2 * prompts.ByteSize()


def pair(shop: Workshop, cache: bool = False) -> Any:
    prompts = {**all_in(shop, "int8"), **({CACHE: kind(ORT, "kv-int8")} if cache else {})}
    return with_token(prompts, all_in(shop, "int4"))


def test_kinds_of_both_graphs(llama: Path, tmp_path: Path) -> None:
    shop = workshop(llama, ORT, tmp_path)
    kinds = pair(shop, cache=True)
    assert {each.name for layer, each in for_prompts(kinds).items() if layer != CACHE} == {"int8"}
    assert {each.name for layer, each in for_token(kinds).items() if layer != CACHE} == {"int4"}
    assert for_token(kinds)[CACHE] is kinds[CACHE]
    assert for_token(all_in(shop, "int8")) == {}


@pytest.mark.parametrize("cache", [False, True], ids=["fp32 cache", "int8 cache"])
def test_a_chain_of_tokens_is_that_of_the_kinds_for_tokens(cache: bool, llama: Path, tmp_path: Path) -> None:
    """Both graphs in one kind read a text as one graph in that kind does."""
    shop = workshop(llama, ORT, tmp_path, windows(8, 40))
    plain = {**all_in(shop, "fp16"), **({CACHE: kind(ORT, "kv-int8")} if cache else {})}
    tokens = np.random.default_rng(0).integers(100, size=(1, 30))
    got = {}
    for name, kinds in (
        ("plain", plain),
        ("both", with_token(plain, plain)),
        ("int4", with_token(plain, all_in(shop, "int4"))),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path, _ = shop.make(kinds, folder, "small")
        with shop.load(path, kinds) as session:
            got[name] = _chain(session, tokens)
    np.testing.assert_array_equal(got["int4"][0], got["plain"][0])  # the prompt
    np.testing.assert_allclose(got["both"], got["plain"], atol=0.05 if cache else 1e-3)
    assert np.abs(got["int4"][1:] - got["plain"][1:]).max() > 0.01


def _chain(session: Any, tokens: NDArray[np.int64]) -> NDArray[Any]:
    decoder = DecoderSession(session)
    first = decoder.prefill(tokens[:, :10], all_logits=False)[0]
    return np.concatenate([first, *(decoder.prefill(tokens[:, i : i + 1])[0] for i in range(10, 30))])


def test_a_bundle_says_so_and_is_examined_token_by_token(llama: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(llama, work)
    shop = workshop(work, ORT, tmp_path, windows(8, 40))
    with open_session(shop.bundle, [shop.flavour], shop.runtime, LoadOptions(threads=1)) as full:
        exam = text_exam(full, windows(4, 40, seed=1))
        trial = Trials(shop, full, exam, Memory(shop, exam), lambda _: None).run(pair(shop))
        alone = Trials(shop, full, exam, Memory(shop, exam), lambda _: None).run(all_in(shop, "int8"))
    assert trial.name == "int8, a token int4"
    assert abs(trial.scores["perplexity_rise"]) > 2 * abs(alone.scores["perplexity_rise"])
    outcome = Outcome("onnxruntime:cpu", (trial, alone), trial, trial.scores, exam.samples)
    _written(shop.bundle, [(shop, outcome, exam)], keep=False)
    (flavour,) = open_bundle(work).manifest.flavours
    assert flavour.quantized is not None
    assert (flavour.quantized.kinds, flavour.quantized.token) == (trial.used, trial.token)
    assert [each.token for each in flavour.quantized.tried] == [trial.token, {}]
    with load_decoder(work, ORT) as session:
        assert "; a token int4 x" in session.session.effective.precision
        session.prefill(np.arange(1, 9)[None])
        fork = session.fork()
        np.testing.assert_array_equal(fork.decode([3]), session.decode([3]))
    code, output = check(work)
    assert code == 0, output


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0.5, 0.6), (0.9, 0.4)], ("int8", "int4")),
        ([(0.9, 0.4), (0.5, 0.6)], ("int4", "int8")),
        ([(0.5, 0.4), (0.9, 0.6)], ("int8", "int8")),
    ],
)
def test_the_best_at_each_are_put_together(
    parts: list[tuple[float, float]], expected: tuple[str, str], llama: Path, tmp_path: Path
) -> None:
    shop = workshop(llama, ORT, tmp_path)
    trials = [_trial(shop, name, each) for name, each in zip(("int8", "int4"), parts, strict=True)]
    asked: list[Any] = []

    _put_together(trials, asked, lambda trial: trial)
    (kinds,) = asked
    assert tuple(next(iter(part.values())).name for part in (for_prompts(kinds), for_token(kinds))) == expected


def test_what_may_be_the_best_is_timed_side_by_side(llama: Path, tmp_path: Path) -> None:
    """Times of one trial and of another are of other moments of the machine."""
    shop = workshop(llama, ORT, tmp_path)
    parts = {
        "int8": (0.50, 0.60),
        "int8-g128": (0.51, 0.59),
        "int4": (0.90, 0.40),
        "int8-dynamic": (0.90, 0.61),
        "fp16": (0.95, 0.95),
    }
    asked: list[Any] = []
    timed: list[str] = []

    def slower_prompts(trial: Trial) -> Trial:
        (name,) = trial.used
        timed.append(name)
        return _trial(shop, name, (0.6 if name == "int8" else parts[name][0], parts[name][1]))

    _put_together([_trial(shop, name, each) for name, each in parts.items()], asked, slower_prompts)
    assert sorted(timed) == ["int4", "int8", "int8-g128"]
    (kinds,) = asked
    assert [next(iter(part.values())).name for part in (for_prompts(kinds), for_token(kinds))] == ["int8-g128", "int4"]


def _put_together(trials: list[Trial], asked: list[Any], again: Callable[[Trial], Trial]) -> None:
    """What `_with_token` would run goes to `asked`; side by side, a trial takes what it takes `again`."""

    class Noting:
        def run(self, kinds: Any) -> None:
            asked.append(kinds)

        def side_by_side(self, trials: Sequence[Trial]) -> list[Trial]:
            return [again(trial) for trial in trials]

    list(_with_token(Noting(), trials))  # type: ignore[arg-type]


def test_two_graphs_have_to_be_worth_their_weights(llama: Path, tmp_path: Path) -> None:
    shop = workshop(llama, ORT, tmp_path)
    one = _trial(shop, "int8", (0.6, 0.6), 0.60)
    little, much = (replace(_trial(shop, "int8", (0.6, 0.6), value), token={"int4": 1}) for value in (0.59, 0.57))
    assert holding([little, one], Budget(RISE, 1.0)) == [one, little]
    assert holding([one, much], Budget(RISE, 1.0)) == [much, one]


def _trial(shop: Workshop, name: str, parts: tuple[float, float], value: float = 0.6) -> Trial:
    timed = Timed(value, value - 0.01, value + 0.01, "faster", seconds=0.1, prompt=0.1, parts=parts)
    return Trial(all_in(shop, name), {name: 1}, "fp32", {RISE: 0.0}, 1, timed)
