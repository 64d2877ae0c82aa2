"""Decoders whose mixers are recurrences: states instead of a cache, and what transformers says of the whole text.

The export holds each flavour to transformers' own steps, and by its text to the whole pass. Here sessions are asked besides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.decoding.evidence import read_evidence
from edgeattn.decoding.generating import generate
from edgeattn.errors import FeedError, SourceError
from edgeattn.parity import compare_arrays
from tests.edgeattn.decoding.small import RUNTIMES, Small, write_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "use_bias": True,  # so that the convolution would not read zeros from padding, were it not told
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
HEADS: dict[str, Any] = {"num_heads": 8, "head_dim": 4, "n_groups": 2, "chunk_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {"Mamba": {}, "FalconMamba": {}, "Mamba2": HEADS}
STATES = {"Mamba": (32, 4), "FalconMamba": (32, 4), "Mamba2": (8, 4, 4)}
QUICK = {"Mamba"}


def _model(family: str, vocabulary: int, **options: Any) -> Any:
    """Always the same numbers, such that what follows a token hangs on what is before it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=vocabulary, **{**SIZES, **FAMILIES[family], **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and not name.endswith("A_log"):
                parameter.mul_(3.0)
            if name.endswith("in_proj.bias"):
                parameter.normal_(std=0.5)
    return model


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def recurrent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder: Path = tmp_path_factory.mktemp("recurrent")
    source = folder / request.param
    source.mkdir()
    model = _model(request.param, write_tokenizer(source))
    model.save_pretrained(source)
    edgeattn.export(str(source), output=folder / "out", runtimes=[f"{name}:cpu" for name in RUNTIMES], cache=True)
    return Small(model, folder / "out")


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, recurrent: Small) -> Iterator[DecoderSession]:
    with load_decoder(recurrent.bundle, request.param) as loaded:
        yield loaded


def _tokens(recurrent: Small, batch: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * seed + length)
    return torch.randint(recurrent.model.config.vocab_size, (batch, length), generator=generator)


def _agree(got: Any, expected: Any) -> None:
    result = compare_arrays("logits", np.asarray(got), np.asarray(expected), "decoder")
    assert result.passed, result.reason


def test_states_are_inputs_and_outputs_of_one_size(recurrent: Small) -> None:
    manifest = open_bundle(recurrent.bundle).manifest
    dims = {info.name: info.dims for info in (*manifest.inputs, *manifest.outputs)}
    state = STATES[type(recurrent.model).__name__.removesuffix("ForCausalLM")]
    for i in range(2):
        assert dims[f"past_ssm.{i}"] == dims[f"present_ssm.{i}"] == ("batch", *state)
        assert dims[f"past_conv.{i}"] == dims[f"present_conv.{i}"]
    assert dims["input_ids"] == dims["attention_mask"] == ("batch", "sequence")


def test_no_scan_looks_outside_of_its_body(recurrent: Small) -> None:
    """OpenVINO reads none that does, except where the value is folded to a constant, as in a small model."""
    scans = [node for node in onnx.load(recurrent.bundle / "portable.onnx").graph.node if node.op_type == "Scan"]
    assert len(scans) == 2
    for scan in scans:
        body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
        own = {value.name for value in body.input} | {name for node in body.node for name in node.output}
        assert {name for node in body.node for name in node.input} <= own


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_check_passes(recurrent: Small, runtime: str) -> None:
    report = edgeattn.check(recurrent.bundle, runtimes=[f"{runtime}:cpu"])
    assert report.passed, report.to_dict()
    assert sum(case.name.startswith("text ") for case in report.targets[0].cases) == 5


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (3, 30), (2, 200)])
def test_the_whole_prompt(session: DecoderSession, recurrent: Small, batch: int, length: int) -> None:
    tokens = _tokens(recurrent, batch, length)
    _agree(session.prefill(tokens.numpy()), recurrent.logits(tokens))
    assert session.length == length


def test_chunks_single_tokens_and_a_reset(session: DecoderSession, recurrent: Small) -> None:
    for seed in range(2):
        tokens = _tokens(recurrent, 2, 25, seed)
        parts = [session.prefill(tokens.numpy()[:, :2]), session.prefill(tokens.numpy()[:, 2:20])]
        parts += [session.decode(tokens.numpy()[:, i])[:, None] for i in range(20, 25)]
        _agree(np.concatenate(parts, axis=1), recurrent.logits(tokens))
        assert session.length == 25
        session.reset()


def test_the_last_logits_alone(session: DecoderSession, recurrent: Small) -> None:
    tokens = _tokens(recurrent, 2, 11)
    _agree(session.prefill(tokens.numpy(), all_logits=False), recurrent.logits(tokens)[:, -1:])


def test_padded_rows_are_each_row_alone(session: DecoderSession, recurrent: Small) -> None:
    rows = [_tokens(recurrent, 1, length) for length in (23, 9, 16)]
    tokens, mask = np.full((3, 23), 7), np.zeros((3, 23), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, 23 - row.shape[1] :], mask[i, 23 - row.shape[1] :] = row[0], 1
    logits = np.concatenate([session.prefill(tokens[:, :15], mask[:, :15]), session.prefill(tokens[:, 15:])], axis=1)
    more = session.decode([4, 8, 15])
    for i, row in enumerate(rows):
        whole = recurrent.logits(torch.cat([row, torch.tensor([[(4, 8, 15)[i]]])], dim=1))
        _agree(logits[i, 23 - row.shape[1] :], whole[0, :-1])
        _agree(more[i], whole[0, -1])


@pytest.mark.parametrize("chunks", [[[1, 0, 1]], [[0, 1], [0, 1]], [[1], [0, 1]]])
def test_padding_behind_a_token_is_refused(session: DecoderSession, recurrent: Small, chunks: list[list[int]]) -> None:
    *before, wrong = [np.array([mask]) for mask in chunks]
    for mask in before:
        session.prefill(np.full_like(mask, 5), mask)
    length = session.length
    with pytest.raises(FeedError, match="padding behind a token: a recurrence has no place for it"):
        session.prefill(np.full_like(wrong, 5), wrong)
    assert session.length == length


def test_both_branches_of_a_fork_are_right(session: DecoderSession, recurrent: Small) -> None:
    texts = torch.stack([_tokens(recurrent, 2, 24), _tokens(recurrent, 2, 24, seed=1)])
    texts[1, :, :11] = texts[0, :, :11]  # the branches part here
    expected = [recurrent.logits(text) for text in texts]
    _agree(session.prefill(texts[0, :, :11].numpy()), expected[0][:, :11])
    fork = session.fork()
    for i in range(11, 24):
        for branch, text, logits in zip((session, fork), texts.numpy(), expected, strict=True):
            _agree(branch.decode(text[:, i]), logits[:, i])


def test_greedy_tokens_are_those_of_transformers(session: DecoderSession, recurrent: Small) -> None:
    prompt = _tokens(recurrent, 1, 5)
    expected = recurrent.greedy(prompt, 64)
    assert [int(token[0]) for token in generate(session, prompt.numpy(), max_new_tokens=64)] == expected


def test_the_greedy_tokens_in_the_bundle_hang_on_their_context(recurrent: Small) -> None:
    text = read_evidence(open_bundle(recurrent.bundle))
    assert text is not None
    pairs = set(itertools.pairwise(text.outputs["greedy"].tolist()))
    assert len(pairs) > len({token for token, _ in pairs}), "the last token alone says what follows; draw other weights"


def test_text_is_generated(recurrent: Small) -> None:
    result = CliRunner().invoke(cli, ["generate", str(recurrent.bundle), "The cat", "--max-new-tokens", "6"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(cli, ["run", str(recurrent.bundle), "--text", "The cat"])
    assert result.exit_code == 2
    assert "takes what it has read (a key/value cache, or states) beside the text" in result.output


def test_without_its_states_every_length_is_taken(tmp_path: Path) -> None:
    _model("Mamba", 50, use_bias=False).save_pretrained(tmp_path / "mamba")
    report = edgeattn.export(str(tmp_path / "mamba"), output=tmp_path / "out", runtimes=["onnxruntime:cpu"], cache=False)
    assert report.passed


def test_another_recurrence_is_refused(tmp_path: Path) -> None:
    config = transformers.RwkvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)
    transformers.RwkvForCausalLM(config).save_pretrained(tmp_path / "rwkv")
    with pytest.raises(SourceError, match="the cache of RwkvForCausalLM is not the keys and values of its 2 layers"):
        edgeattn.export(str(tmp_path / "rwkv"), output=tmp_path / "out", cache=True)
    assert not (tmp_path / "out").exists()


def test_limited_steps_are_refused(tmp_path: Path) -> None:
    _model("Mamba2", 50, time_step_limit=(0.0, 0.1)).save_pretrained(tmp_path / "mamba2")
    with pytest.raises(SourceError, match=r"Mamba2ForCausalLM with time_step_limit \(0.0, 0.1\)"):
        edgeattn.export(str(tmp_path / "mamba2"), output=tmp_path / "out", cache=True)
