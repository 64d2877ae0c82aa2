"""Hugging Face folders: what is refused, and that encoders keep their numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface

from edgeattn.errors import CaptureError, SourceError
from edgeattn.exporters.capture import capture
from edgeattn.exporters.gate import run_gate
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.reference_run import ReferenceCase, run_reference
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.huggingface import from_folder
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.exporters.sources.huggingface.attention import NAME, attend
from edgeattn.manifest import OutputInfo, ParityResult, TensorInfo
from edgeattn.runtimes import registry
from edgeattn.spec import AttentionSpec, SlidingWindow, SoftmaxAttention

# ----- Hugging Face folders that are not what they should be

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def _save(folder: Path, model: Any, gain: float = 6.0) -> Path:
    """Save with weights so large that attention is far from uniform: a lost mask must show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(gain)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT. Do not write into it: copy it first."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL)
    return _save(tmp_path_factory.mktemp("models") / "tiny-bert", transformers.BertModel(config))


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        resolve(str(folder))
    assert message in str(caught.value)


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    _refused(folder, "has no config.json; a Hugging Face folder holds config.json and *.safetensors")


@pytest.mark.parametrize(("text", "message"), [("{", "config.json is not JSON"), ("[1]", "must hold a JSON object, got list")])
def test_a_config_that_is_no_json_object(text: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    _refused(folder, message)


def test_a_config_that_is_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    _refused(folder, "config.json is not JSON")


@pytest.mark.parametrize("architectures", [None, [], "BertModel", [3]])
def test_a_config_without_architectures(architectures: object, folder: Path) -> None:
    _config(folder, architectures=architectures)
    _refused(folder, 'names no architecture; add "architectures"')


def test_an_architecture_nobody_knows(folder: Path) -> None:
    _config(folder, architectures=["MyOwnBert"])
    _refused(folder, "has no architecture 'MyOwnBert'; remote code is not run")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _refused(folder, "has no weights: no *.safetensors file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_not_loaded(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    _refused(folder, f"has only pickled weights ({name}), which can run code when loaded")


def test_damaged_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    _refused(folder, "transformers cannot load BertModel: ")


CHAIN = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]


def _pool(folder: Path, chain: object, **modes: bool) -> Path:
    (folder / "modules.json").write_text(json.dumps(chain))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    return folder


@pytest.mark.parametrize(
    ("chain", "modes", "message"),
    [
        (CHAIN, {"pooling_mode_cls_token": True}, "with pooling_mode_cls_token is not understood"),
        (CHAIN, {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (CHAIN, {}, "with no mode is not understood"),
        (CHAIN[:2], {"pooling_mode_mean_tokens": True}, "pooling Transformer -> Pooling with"),
        ({"a": 1}, {}, 'must be a list of modules, each with a "type"'),
        ([{"name": "x"}], {}, 'must be a list of modules, each with a "type"'),
    ],
)
def test_pooling_that_is_not_understood(chain: object, modes: dict[str, bool], message: str, folder: Path) -> None:
    _refused(_pool(folder, chain, **modes), message)


def test_pooling_that_is_no_json(folder: Path) -> None:
    (folder / "modules.json").write_text("{")
    _refused(folder, "modules.json is not JSON")


def test_an_architecture_that_attends_on_its_own(tmp_path: Path) -> None:
    source = from_folder(_save(tmp_path, transformers.MPNetModel(transformers.MPNetConfig(**SMALL))))
    with pytest.raises(CaptureError, match="MPNetModel does not attend through transformers' interface"):
        capture(source, ["last_hidden_state", "pooler_output"])


# ----- Hugging Face encoders

PADDED = SoftmaxAttention(2, 2, 8, mask="key_padding")
_DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
_MODERN = {"local_attention": 6, "global_attn_every_n_layers": 2, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
_T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any], list[str], int | None, list[AttentionSpec]]] = {
    "Bert": ("BertModel", SMALL, ["input_ids", "attention_mask", "token_type_ids"], 40, [PADDED] * 2),
    "Roberta": (
        "RobertaModel",
        {**SMALL, "pad_token_id": 1},
        ["input_ids", "attention_mask", "token_type_ids"],
        38,  # positions are counted from behind the padding index
        [PADDED] * 2,
    ),
    "DistilBert": ("DistilBertModel", _DISTIL, ["input_ids", "attention_mask"], 40, [PADDED] * 2),
    "Electra": (
        "ElectraModel",
        {**SMALL, "embedding_size": 8},
        ["input_ids", "attention_mask", "token_type_ids"],
        40,
        [PADDED] * 2,
    ),
    "ModernBert": (
        "ModernBertModel",
        {**SMALL, **_MODERN, "bos_token_id": 1, "eos_token_id": 2},
        ["input_ids", "attention_mask"],
        40,
        [PADDED, SoftmaxAttention(2, 2, 8, mask="key_padding", pattern=SlidingWindow(3, 3))],
    ),
    "T5": (
        "T5EncoderModel",
        _T5,
        ["input_ids", "attention_mask"],
        None,
        [SoftmaxAttention(2, 2, 8, scale=1.0, mask="key_padding", bias=True)] * 2,
    ),
}


def _cases(source: Source) -> list[ReferenceCase]:
    """Part of the grid: batch 1 and more, one token, odd, the longest."""
    sizes = {(1, 1), (1, 7), (3, 7), (3, 40), (3, 38), (1, 40), (1, 38), (3, 128)}
    return [case for case in run_reference(source) if (case.sizes["batch"], case.sizes["sequence"]) in sizes]


def _gate(source: Source, canonical: ir.Model, cases: list[ReferenceCase], tmp_path: Path) -> tuple[ParityResult, str]:
    """Write a captured model in one form and run the export's own gate on ONNX Runtime."""
    model = lower(canonical, {site.name: get("attention-23") for site in find_sites(canonical)}, {})
    ir.save(model, tmp_path / "model.onnx")
    outputs, padding = [], None
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.name is not None
        assert value.shape is not None
        dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
        if value.name == source.padding:
            padding = TensorInfo(value.name, "int64", dims)
        elif not value.is_graph_input():
            kind = source.output_classes.get(value.name, "activation")
            outputs.append(OutputInfo(value.name, "float32", dims, kind))
    onnxruntime = registry.get("onnxruntime")
    verdict = run_gate(tmp_path / "model.onnx", onnxruntime, "cpu", cases, outputs, padding, lambda _: None)
    return verdict.parity, verdict.reason


SLOW_FAMILIES = {"DistilBert", "Electra", "Roberta", "T5"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_FAMILIES else []) for name in FAMILIES]
)
def test_encoders_keep_their_numbers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture, options, inputs, limit, specs = FAMILIES[family]
    model_class = getattr(transformers, architecture)
    gain = 2.0 if family == "T5" else 6.0  # it does not scale its scores down
    source = resolve(str(_save(tmp_path / "model", model_class(model_class.config_class(**options)), gain)))
    assert (list(source.inputs), source.dimensions["sequence"].limit) == (inputs, limit)
    assert source.padding == "attention_mask"
    own: Any = source.module
    implementation = own.config._attn_implementation
    cases = _cases(source)
    canonical = capture(source, list(cases[0].outputs))
    assert [site.spec for site in find_sites(canonical)] == specs  # one per layer
    assert unraised(canonical) == []
    assert own.config._attn_implementation == implementation != NAME
    parity, failure = _gate(source, canonical, cases, tmp_path)
    assert failure == ""
    assert (parity.passed, parity.cases) == (True, len(cases))
    with torch.inference_mode():
        again = source.module(**{name: torch.from_numpy(array) for name, array in cases[1].inputs.items()})
    for name, array in cases[1].outputs.items():
        np.testing.assert_array_equal(again[name].numpy(), array)


def test_a_folder_with_pooling_gives_sentence_embeddings(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    source = resolve(str(_pool(folder, CHAIN, pooling_mode_mean_tokens=True)))
    assert source.output_classes == {"sentence_embedding": "normalized"}
    assert source.tokenizer["max_length"] == 24
    assert list(source.files) == ["tokenizer/tokenizer.json"]
    cases = _cases(source)
    embedding = cases[-1].outputs["sentence_embedding"].astype(np.float64)
    np.testing.assert_allclose((embedding**2).sum(axis=1), 1, atol=1e-6)
    parity, failure = _gate(source, capture(source, list(cases[0].outputs)), cases, tmp_path)
    assert failure == ""
    assert set(parity.max_abs_error) == {"last_hidden_state", "sentence_embedding"}


@contextlib.contextmanager
def _without_masks(model: Any) -> Iterator[None]:
    """The mistake that is easy to make: the attention is registered, the mask is not, so transformers passes none."""
    name = f"{NAME}_without_masks"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def test_a_lost_padding_mask_fails_the_gate(bert: Path, tmp_path: Path) -> None:
    source = resolve(str(bert))
    cases = _cases(source)
    broken = replace(source, exporting=lambda: _without_masks(source.module))
    canonical = capture(broken, list(cases[0].outputs))
    parity, failure = _gate(broken, canonical, cases, tmp_path)
    assert not parity.passed
    assert failure.startswith("last_hidden_state at batch1-sequence7: max error")
    assert parity.max_abs_error["last_hidden_state"] > 100 * 2e-5
    unpadded = [case for case in cases if case.inputs["attention_mask"].all()]
    assert unpadded
    assert _gate(broken, canonical, unpadded, tmp_path)[1] == ""  # nothing but the padded rows shows it
