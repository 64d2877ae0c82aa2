"""Hugging Face folders that are not what they should be: each is refused, and told why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertModel

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.resolve import resolve
from tests.exporters.families.building import tiny_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT. Do not write into it: copy it first."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


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
def test_a_config_without_architectures_is_told_the_likely_one(architectures: object, folder: Path) -> None:
    _config(folder, architectures=architectures)
    _refused(folder, 'names no architecture; add "architectures": ["BertModel"], as the weights were saved')


def test_a_base_config_of_nothing_known(folder: Path) -> None:
    _config(folder, architectures=None, model_type="my_own")
    _refused(folder, 'names no architecture; add "architectures": ["<class of transformers>"]')


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertForMaskLM", "has no architecture 'BertForMaskLM'; near to it: BertForMaskedLM"),
        ("BertConfig", "has no architecture 'BertConfig'; near to it: "),
        (
            "Qqqqqqqq",
            "has no architecture 'Qqqqqqqq'; a newer transformers may have it, and code from a model folder is not run",
        ),
    ],
)
def test_an_architecture_nobody_knows(name: str, message: str, folder: Path) -> None:
    _config(folder, architectures=[name])
    _refused(folder, message)


def test_code_from_the_folder_is_not_run(folder: Path) -> None:
    (folder / "modeling_mine.py").write_text("raise SystemExit('this ran')")
    _config(folder, auto_map={"AutoModel": "modeling_mine.BertModel"})
    _refused(folder, "asks for code of its own (auto_map: {'AutoModel': 'modeling_mine.BertModel'})")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _refused(folder, "has no weights: no *.safetensors file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_not_loaded(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    _refused(folder, f"has only pickled weights ({name}), which can run code when loaded")


def test_an_adapter_alone_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    _refused(folder, "holds an adapter without its model; merge the two")


def test_a_missing_part_of_the_weights(bert: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(bert).save_pretrained(tmp_path, max_shard_size="5KB")
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert len(parts) > 1
    parts[0].unlink()
    _refused(tmp_path, "transformers cannot load BertModel: ")


def test_damaged_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    _refused(folder, "transformers cannot load BertModel: ")


def test_weights_of_another_class_are_no_model(folder: Path) -> None:
    _config(folder, architectures=["BertForTokenClassification"])
    _refused(folder, "the weights lack 2 of BertForTokenClassification's parameters (classifier.bias, classifier.weight, ...)")


def _tokenizer(folder: Path, size: int) -> Path:
    words = {f"word{i}": i for i in range(size - 1)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="word0"))
    tokenizer.add_special_tokens(["<last>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    _refused(_tokenizer(folder, 51), "it gives ids up to 50 ('<last>'), and the model embeds 50 tokens")


def test_a_tokenizer_that_is_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    _refused(folder, "tokenizer.json cannot be read as a tokenizer: ")


# ----- sentence-transformers' pooling

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
