"""The two halves of an encoder-decoder are its whole forward pass, before anything is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import edgeattn
from edgeattn.errors import SourceError, UsageError
from edgeattn.exporters.export import ExportFailedError
from edgeattn.exporters.reference_run import size_grid
from edgeattn.exporters.sources.huggingface import from_folder
from edgeattn.exporters.sources.huggingface.encoder_decoder import Encoder
from edgeattn.manifest import PAST
from tests.edgeattn.decoding.pairs import CAPACITY, FAMILIES, Pair, build_pair
from tests.exporters.families.building import build, save
from tests.exporters.families.test_encoder_decoders import FAMILIES as WHOLE


def _pair(name: str, folder: Path) -> Pair:
    return Pair(name, build_pair(name, folder), folder, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_halves_are_the_whole(name: str, tmp_path: Path) -> None:
    pair = _pair(name, tmp_path)
    source = from_folder(tmp_path, cache=True)
    feeds, tokens = pair.feeds(2), pair.tokens(2, 40)
    mask = {"encoder_attention_mask": feeds["attention_mask"]} if "attention_mask" in feeds else {}
    own = {name: torch.zeros(2, 4, 0, 8) for name in source.inputs if ".decoder." in name}
    said = []
    with torch.inference_mode():
        read = source.parts["encoder"].module(**feeds)
        cross = {f"past_key_values{name.removeprefix('present')}": value for name, value in read.items()}
        for begin, end in ((0, 1), (1, 20), (20, 21), (21, 40)):
            result = source.module(decoder_input_ids=tokens[:, begin:end], **mask, **cross, **own)
            said.append(result.pop("logits").numpy())
            own = {f"past_key_values{name.removeprefix('present')}": value for name, value in result.items()}
    # T5 in PyTorch is up to 5e-5 away from its own float64 here
    np.testing.assert_allclose(np.concatenate(said, axis=1), pair.logits(feeds, tokens), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_proven_sizes_stay_within_the_positions(name: str, tmp_path: Path) -> None:
    _pair(name, tmp_path)
    source = from_folder(tmp_path, cache=True)
    grid = size_grid(source.dimensions)
    assert all(sizes["decoder_sequence"] + sizes[PAST] <= CAPACITY for sizes in grid)
    assert {0} < {sizes[PAST] for sizes in grid}
    assert any(sizes[PAST] > 1 and sizes["decoder_sequence"] == 1 for sizes in grid)
    assert {dimension.limit for dimension in source.dimensions.values()} >= {CAPACITY}


def test_padding_is_drawn_for_the_decoder_as_well(tmp_path: Path) -> None:
    _pair("bart", tmp_path)
    source = from_folder(tmp_path, cache=True)
    drawn = source.sample({"batch": 3, "sequence": 7, "decoder_sequence": 2, PAST: 4}, torch.Generator().manual_seed(0))
    mask = drawn["encoder_attention_mask"]
    assert mask.any(1).all()
    assert not mask.all()


def test_a_model_whose_encoder_cannot_run_alone(tmp_path: Path) -> None:
    build(WHOLE["visual-question-answering"], tmp_path)
    with pytest.raises(SourceError, match="BlipForQuestionAnswering takes no encoder_outputs, so its encoder cannot run once"):
        from_folder(tmp_path, cache=True)


def test_an_encoder_whose_positions_are_not_those_of_its_inputs(tmp_path: Path) -> None:
    small = {
        "hidden_size": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    convolved = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 4}
    sizes = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_conv_pos_embedding_groups": 2, "vocab_size": 20}
    config: Any = transformers.SpeechT5Config(**small, **convolved, **sizes)
    save(tmp_path, transformers.SpeechT5ForSpeechToText(config), 1.0)
    with pytest.raises(SourceError, match="how many it gives for others is not understood: export it with --cache none"):
        from_folder(tmp_path, cache=True)


def test_fixed_sizes_are_for_one_model(tmp_path: Path) -> None:
    source = tmp_path / "bart"
    source.mkdir()
    _pair("bart", source)
    with pytest.raises(UsageError, match=r"bart has a model beside it \(encoder\); fixed sizes are for --cache none"):
        edgeattn.export(str(source), output=tmp_path / "out", static_shapes=[{"batch": 1}], cache=True)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_differs_fails_the_gate_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "bart"
    source.mkdir()
    _pair("bart", source)
    right = Encoder.forward

    def shifted(self: Encoder, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Something else while it is exported, as a wrong translation would be."""
        more = 0.1 if torch.compiler.is_exporting() else 0.0
        return {name: tensor + more for name, tensor in right(self, **inputs).items()}

    monkeypatch.setattr(Encoder, "forward", shifted)
    with pytest.raises(ExportFailedError, match=r"encoder onnxruntime:cpu: present\.0\.encoder\.key at ") as failure:
        edgeattn.export(str(source), output=tmp_path / "out", cache=True)
    assert not failure.value.report.passed
    assert all(not row.failure for row in failure.value.report.flavours)
    assert [path.name for path in tmp_path.iterdir()] == ["bart"]
