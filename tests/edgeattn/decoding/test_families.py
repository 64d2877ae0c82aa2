"""Every family of decoders with its cache, token by token, on every runtime.

The export holds each flavour to PyTorch's pass without a cache: whole, in chunks, token by token, beside a fork, with padding in
front, beyond the windows (48 tokens against 5), and by 64 greedy tokens. Here transformers' own generation is asked besides.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import edgeattn
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.decoding import load_decoder
from edgeattn.decoding.evidence import read_evidence
from edgeattn.decoding.generating import generate
from edgeattn.decoding.session import DecoderSession
from edgeattn.exporters.quantize import onnx_io
from edgeattn.exporters.quantize.onnx_token import for_one_token
from edgeattn.manifest import PAST
from edgeattn.parity import compare_arrays
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from tests.edgeattn.decoding.small import RUNTIMES
from tests.exporters.families.building import Family, build
from tests.exporters.families.test_decoders import FAMILIES

SHARED = "contrib-gqa-cache"
LOWERINGS = {
    "Llama": {SHARED},
    "GPT-2": {SHARED},
    "GPT-NeoX": {SHARED},
    "Mistral": {SHARED},
    "Qwen2": {SHARED},
    "Qwen3": {SHARED},
    "Gemma 2": {SHARED},
    "Gemma 3": {SHARED},
    "GPT-OSS": {SHARED},
    "Phi": {SHARED},
    "Falcon": {SHARED},
    "Falcon, grouped": {SHARED},
    "Falcon, ALiBi": {SHARED},
    "BLOOM": {SHARED},
}
"""The forms that each family gets on ONNX Runtime."""
QUICK = {"Qwen3"}
LENGTH = 96


@dataclass(frozen=True)
class Exported:
    """A family in PyTorch, and its bundle."""

    model: Any
    bundle: Bundle


def _varied(family: Family) -> Family:
    """With room for a longer text, and with logits that hang on more than the last token: those of the embeddings themselves
    would repeat it for ever."""
    longer = {name: LENGTH for name in ("max_position_embeddings", "n_positions") if family.config.get(name) == 40}
    return replace(family, config={**family.config, **longer, "tie_word_embeddings": False}, gain=10.0)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in LOWERINGS])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder: Path = tmp_path_factory.mktemp("family")
    family = FAMILIES[request.param]
    source = build(_varied(family), folder / "model")
    edgeattn.export(str(source), output=folder / "out", runtimes=[f"{name}:cpu" for name in RUNTIMES], cache=True)
    bundle = open_bundle(folder / "out")
    flavour = bundle.manifest.flavour("onnxruntime:cpu")
    assert flavour is not None
    assert set(flavour.lowerings.values()) == LOWERINGS[request.param], flavour.reasons
    cls = getattr(transformers, family.architecture)
    return Exported(cls.from_pretrained(source).eval(), bundle)


def _agree(got: Any, expected: Any) -> None:
    result = compare_arrays("logits", np.asarray(got), np.asarray(expected), "decoder")
    assert result.passed, result.reason


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_check_passes(exported: Exported, runtime: str) -> None:
    report = edgeattn.check(exported.bundle, runtimes=[f"{runtime}:cpu"])
    assert report.passed, report.to_dict()
    assert sum(case.name.startswith("text ") for case in report.targets[0].cases) == 5


def _branching(rows: Any) -> set[int]:
    """Tokens that are followed by one here and by another there."""
    followers: dict[int, set[int]] = {}
    for token, follower in (pair for row in rows for pair in itertools.pairwise(row)):
        followers.setdefault(int(token), set()).add(int(follower))
    return {token for token, found in followers.items() if len(found) > 1}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_greedy_tokens_are_those_of_transformers(exported: Exported, runtime: str) -> None:
    prompts = torch.randint(3, 50, (4, 5), generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        settings = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = exported.model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)[:, 5:]
    assert _branching(expected), "the last token alone says what follows; draw other weights"
    with load_decoder(exported.bundle, runtime) as session:
        tokens = np.stack(list(generate(session, prompts.numpy(), max_new_tokens=64)), axis=1)
    np.testing.assert_array_equal(tokens, expected)


def test_the_greedy_tokens_in_the_bundle_hang_on_their_context(exported: Exported) -> None:
    text = read_evidence(exported.bundle)
    assert text is not None
    assert _branching([text.outputs["greedy"]])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_both_branches_of_a_fork_are_right(exported: Exported, runtime: str) -> None:
    texts = torch.randint(3, 50, (2, 2, 24), generator=torch.Generator().manual_seed(5))
    texts[1, :, :11] = texts[0, :, :11]  # the branches part here
    with torch.inference_mode():
        expected = [exported.model(text, use_cache=False).logits for text in texts]
    with load_decoder(exported.bundle, runtime) as session:
        _agree(session.prefill(texts[0, :, :11].numpy()), expected[0][:, :11])
        fork = session.fork()
        for i in range(11, 24):
            for branch, text, logits in zip((session, fork), texts.numpy(), expected, strict=True):
                _agree(branch.decode(text[:, i]), logits[:, i])


def test_a_graph_for_a_single_token_is_the_same_model(exported: Exported, tmp_path: Path) -> None:
    token = for_one_token(exported.bundle.path / "onnxruntime-cpu.onnx", exported.bundle.manifest.limits.get(PAST))
    onnx_io.write(token, tmp_path / "token.onnx", "token.bin")
    text = torch.randint(3, 50, (1, 24), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = exported.model(text, use_cache=False).logits.numpy()
    flavour = exported.bundle.manifest.flavour("onnxruntime:cpu")
    assert flavour is not None
    with registry.get("onnxruntime").load(tmp_path / "token.onnx", LoadOptions(cache=flavour.cache)) as session:
        decoder = DecoderSession(session)
        _agree(np.stack([decoder.prefill(text[:, i : i + 1].numpy())[:, 0] for i in range(24)], axis=1), expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_padded_rows_are_each_row_alone(exported: Exported, runtime: str) -> None:
    rows = [torch.randint(3, 50, (1, length), generator=torch.Generator().manual_seed(length)) for length in (23, 9, 16)]
    tokens, mask = np.zeros((3, 23), dtype=np.int64), np.zeros((3, 23), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, 23 - row.shape[1] :], mask[i, 23 - row.shape[1] :] = row[0], 1
    with load_decoder(exported.bundle, runtime) as session:
        first = session.prefill(tokens[:, :15], mask[:, :15])
        logits = np.concatenate([first, session.prefill(tokens[:, 15:], mask[:, 15:])], axis=1)
        more = session.decode([4, 8, 15])
    for i, row in enumerate(rows):
        with torch.inference_mode():
            whole = exported.model(torch.cat([row, torch.tensor([[(4, 8, 15)[i]]])], dim=1), use_cache=False).logits
        _agree(logits[i, 23 - row.shape[1] :], whole[0, :-1])
        _agree(more[i], whole[0, -1])
