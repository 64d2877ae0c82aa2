"""What a Hugging Face folder becomes: its outputs, its example inputs, its masks; and that the model stays as it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AttentionInterface, AttentionMaskInterface

from edgeattn.errors import CaptureError
from edgeattn.exporters.capture import capture
from edgeattn.exporters.gate import Verdict, run_gate
from edgeattn.exporters.lower import lower
from edgeattn.exporters.lowerings.registry import get
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.reference_run import ReferenceCase, run_reference
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.huggingface.attending import attend
from edgeattn.exporters.sources.huggingface.attention import NAME
from edgeattn.exporters.sources.huggingface.inputs.text import padding
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.manifest import OutputInfo, TensorInfo
from edgeattn.runtimes import registry
from edgeattn.spec import Causal
from tests.exporters.families.building import save, tiny_bert

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that is only read."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


def _cases(source: Source) -> list[ReferenceCase]:
    """Part of the grid: batch 1 and more, one token, odd, the longest."""
    sizes = {(1, 1), (1, 7), (3, 7), (3, 40)}
    return [case for case in run_reference(source) if (case.sizes["batch"], case.sizes["sequence"]) in sizes]


def _gate(source: Source, canonical: ir.Model, cases: list[ReferenceCase], tmp_path: Path) -> Verdict:
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
    return run_gate(tmp_path / "model.onnx", registry.get("onnxruntime"), "cpu", cases, outputs, padding, lambda _: None)


def test_weights_in_several_files(bert: Path, tmp_path: Path) -> None:
    transformers.BertModel.from_pretrained(bert).save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, parted = (run_reference(resolve(str(path)))[1].outputs["last_hidden_state"] for path in (bert, tmp_path))
    np.testing.assert_array_equal(whole, parted)


def test_outputs_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    options = {
        **SMALL,
        "num_local_experts": 2,
        "num_key_value_heads": 2,
        "output_router_logits": True,
        "output_hidden_states": True,
    }
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**options))
    source = resolve(str(save(tmp_path, model, gain=1.0)))
    assert list(run_reference(source)[0].outputs) == ["logits"]


def test_a_loop_over_time_is_named(tmp_path: Path) -> None:
    config = transformers.RwkvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)
    source = resolve(str(save(tmp_path, transformers.RwkvForCausalLM(config), gain=1.0)))
    with pytest.raises(CaptureError, match=r"sequence would be static, 16 and nothing else\. A Python loop over that axis"):
        capture(source, ["logits"])


def test_an_attention_without_interface_or_adapter_is_still_found(tmp_path: Path) -> None:
    config = transformers.DebertaConfig(**SMALL)
    source = resolve(str(save(tmp_path / "model", transformers.DebertaModel(config), gain=4.0)))
    cases = _cases(source)
    canonical = capture(source, list(cases[0].outputs))
    assert [site.spec.q_heads for site in find_sites(canonical)] == [2, 2]
    assert unraised(canonical) == []
    assert _gate(source, canonical, cases, tmp_path).reason == ""


def _with_pooling(folder: Path) -> Path:
    chain = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(chain))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    Tokenizer(WordLevel({"a": 0, "b": 49}, unk_token="a")).save(str(folder / "tokenizer.json"))
    return folder


def test_a_folder_with_pooling_gives_sentence_embeddings(tmp_path: Path) -> None:
    source = resolve(str(_with_pooling(tiny_bert(tmp_path))))
    assert source.output_classes == {"sentence_embedding": "normalized"}
    assert source.tokenizer["max_length"] == 24
    assert list(source.files) == ["tokenizer/tokenizer.json"]
    cases = _cases(source)
    embedding = cases[-1].outputs["sentence_embedding"].astype(np.float64)
    np.testing.assert_allclose((embedding**2).sum(axis=1), 1, atol=1e-6)
    verdict = _gate(source, capture(source, list(cases[0].outputs)), cases, tmp_path)
    assert verdict.reason == ""
    assert set(verdict.parity.max_abs_error) == {"last_hidden_state", "sentence_embedding"}


def test_the_model_is_handed_back_as_it_was(bert: Path) -> None:
    source = resolve(str(bert))
    own: Any = source.module
    implementation, interfaces = own.config._attn_implementation, own.config._experts_implementation
    before = _cases(source)
    capture(source, ["last_hidden_state"])
    assert own.config._attn_implementation == implementation != NAME
    assert own.config._experts_implementation == interfaces
    assert transformers.masking_utils.find_packed_sequence_indices(torch.tensor([[0, 1, 0]])) is not None
    for case, again in zip(before, _cases(source), strict=True):
        np.testing.assert_array_equal(case.outputs["last_hidden_state"], again.outputs["last_hidden_state"])


def test_padding_stands_at_the_end_and_in_front() -> None:
    assert padding(3, 6).tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert (padding(1, 7).tolist(), padding(1, 6).tolist()) == ([[0, 0, 0, 1, 1, 1, 1]], [[1] * 6])


def test_the_padding_token_stands_where_there_is_padding(tmp_path: Path) -> None:
    options = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 7}
    source = resolve(str(save(tmp_path, transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)), gain=1.0)))
    inputs = source.sample({"batch": 3, "sequence": 30}, torch.Generator().manual_seed(0))
    assert torch.equal(inputs["input_ids"] == 7, inputs["attention_mask"] == 0)
    assert inputs["input_ids"].max() == 49
    assert [site.spec.pattern for site in find_sites(capture(source, ["logits"]))] == [Causal()] * 2


@contextlib.contextmanager
def _without_masks(model: Any) -> Iterator[None]:
    """The mistake that is easy to make: the attention is registered, the mask is not, so transformers passes none."""
    name = f"{NAME}_without_masks"
    AttentionInterface.register(name, partial(attend, causal_flag=False))
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
    verdict = _gate(broken, canonical, cases, tmp_path)
    assert not verdict.parity.passed
    assert verdict.reason.startswith("last_hidden_state at batch1-sequence7: max error")
    assert verdict.parity.max_abs_error["last_hidden_state"] > 100 * 2e-5
    unpadded = [case for case in cases if case.inputs["attention_mask"].all()]
    assert unpadded
    assert _gate(broken, canonical, unpadded, tmp_path).reason == ""  # nothing but the padded rows shows it
