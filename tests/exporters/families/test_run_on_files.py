"""`edgeattn run` on images, sounds and texts, held to transformers' own processors and models on the same files."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import edgeattn
from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.preprocess import feeds
from tests.exporters.families.building import save

Array = NDArray[Any]

EYES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
}


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def _outputs(bundle: Path, *options: object) -> dict[str, Array]:
    """What `edgeattn run` writes."""
    target = bundle.parent / "results.npz"
    result = _run("run", bundle, *options, "--output", target)
    assert result.exit_code == 0, result.stderr
    with np.load(target) as archive:
        return {name: archive[name] for name in archive.files}


def _model_folder(model: Any, folder: Path, **config: Any) -> Path:
    """`model` as a folder, with the pre-processing of `config`."""
    torch.manual_seed(0)
    source = save(folder / "model", model.eval(), 4.0)
    (source / "preprocessor_config.json").write_text(json.dumps(config))
    return source


def _export(model: Any, folder: Path, **config: Any) -> Path:
    """A bundle of such a folder."""
    edgeattn.export(str(_model_folder(model, folder, **config)), output=folder / "bundle")
    return folder / "bundle"


def _image(path: Path, mode: str = "RGB", seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (41, 67, len(mode)), dtype=np.uint8).squeeze()
    Image.fromarray(values, mode).save(path)
    return path


def _sound(path: Path, length: int, rate: int = 16000) -> tuple[Path, Array]:
    samples = np.random.default_rng(length).integers(-20000, 20000, length, dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path, (samples / 32768).astype(np.float32)


def _close(got: Array, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny ViT, and its bundle."""
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**EYES, num_labels=3))
    size = {"height": 32, "width": 32}
    return model, _export(model, tmp_path_factory.mktemp("vit"), image_processor_type="ViTImageProcessor", size=size)


def test_images_of_all_kinds(seeing: tuple[Any, Path], tmp_path: Path) -> None:
    model, bundle = seeing
    paths = [_image(tmp_path / "a.png"), _image(tmp_path / "b.png", "RGBA", 1), _image(tmp_path / "c.jpg", "L", 2)]
    got = _outputs(bundle, *(word for path in paths for word in ("--image", path)))
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    images = [transformers.image_utils.load_image(str(path)) for path in paths]
    expected = model(**processor(images=images, return_tensors="pt")).logits
    assert float((expected[0] - expected[1]).detach().abs().max()) > 0.01  # it looks at the image
    _close(got["logits"], expected)


def test_inspect_says_what_is_made_of_data(seeing: tuple[Any, Path]) -> None:
    _, bundle = seeing
    assert "edgeattn run makes pixel_values from --image" in _run("inspect", bundle).stdout
    settings = json.loads(_run("inspect", bundle, "--json").stdout)["preprocessing"]
    assert (settings["image"]["resize"], settings["audio"], settings["refused"]) == ([32, 32], None, {})


def test_bad_files_are_bad_input(seeing: tuple[Any, Path], tmp_path: Path) -> None:
    _, bundle = seeing
    (tmp_path / "a.png").write_text("no image")
    for options, message in [
        (("--image", tmp_path / "a.png"), "is no image that Pillow reads"),
        (("--image", tmp_path / "b.png"), "is not there; --image takes an image file"),
        (("--audio", tmp_path / "a.wav"), "has no audio settings: its model takes pixel_values; give the arrays with --input"),
        (("--text", "a cat"), "has no tokenizer"),
    ]:
        result = _run("run", bundle, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


@pytest.mark.slow
def test_a_bundle_says_why_it_takes_no_images(tmp_path: Path) -> None:
    model = transformers.YolosForObjectDetection(transformers.YolosConfig(**{**EYES, "image_size": [32, 48]}, num_labels=3))
    size = {"shortest_edge": 32, "longest_edge": 48}
    source = _model_folder(model, tmp_path, image_processor_type="YolosImageProcessor", size=size)
    exported = _run("export", source, "-o", bundle := tmp_path / "bundle", "-r", "onnxruntime:cpu")
    assert exported.exit_code == 0
    assert "no image settings in the bundle: YolosImageProcessor cannot be repeated on a device" in exported.stdout
    result = _run("run", bundle, "--image", _image(tmp_path / "a.png"))
    assert result.exit_code == 2
    assert (
        "a size by shortest_edge and longest_edge is not repeated on the device; give the arrays with --input" in result.stderr
    )
    np.savez(tmp_path / "feeds.npz", pixel_values=np.zeros((1, 3, 32, 48), np.float32))
    assert _run("run", bundle, "--input", tmp_path / "feeds.npz").exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_sounds_of_two_lengths(norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 3, 2),
        conv_stride=(5, 2, 2),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
    )
    model = transformers.Wav2Vec2ForCTC(config)
    options = {"do_normalize": True, "return_attention_mask": norm == "layer"}
    bundle = _export(model, tmp_path, feature_extractor_type="Wav2Vec2FeatureExtractor", **options)
    (long, first), (short, second) = _sound(tmp_path / "a.wav", 3000), _sound(tmp_path / "b.wav", 1777)
    got = _outputs(bundle, "--audio", long, "--audio", short)
    extractor = transformers.Wav2Vec2FeatureExtractor(**options)
    fed = extractor([first, second], sampling_rate=16000, padding=True, return_tensors="pt")
    assert ("attention_mask" in fed) == (norm == "layer")
    _close(got["logits"], model(**fed).logits)
    wrong = _run("run", bundle, "--audio", _sound(tmp_path / "c.wav", 3000, rate=8000)[0])
    assert (wrong.exit_code, "has 8000 samples per second, the model takes 16000" in wrong.stderr) == (2, True)
    tiny = _run("run", bundle, "--audio", _sound(tmp_path / "d.wav", 20)[0])
    assert (tiny.exit_code, "a sound has 20 samples, the model needs at least 50" in tiny.stderr) == (2, True)


@pytest.mark.slow
def test_speech_from_its_first_token_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    config = transformers.WhisperConfig(
        vocab_size=50,
        d_model=16,
        max_source_positions=50,
        max_target_positions=40,
        num_mel_bins=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        **layers,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    options = {"feature_size": 16, "chunk_length": 1}
    bundle = _export(model, tmp_path, feature_extractor_type="WhisperFeatureExtractor", **options)
    path, samples = _sound(tmp_path / "a.wav", 9000)
    features = transformers.WhisperFeatureExtractor(**options)(samples, sampling_rate=16000, return_tensors="pt").input_features
    for ids in ([[3]], [[3, 7, 9]]):
        np.savez(tmp_path / "ids.npz", decoder_input_ids=np.array(ids))
        more = [] if len(ids[0]) == 1 else ["--input", tmp_path / "ids.npz"]
        _close(_outputs(bundle, "--audio", path, *more)["logits"], model(features, decoder_input_ids=torch.tensor(ids)).logits)


@pytest.mark.slow
def test_one_image_against_texts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(0)
    words = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"vocab_size": 8, "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 7}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config={**words, **ids}, vision_config=EYES, projection_dim=8))
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3, "dog": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    bundle = _export(model, tmp_path, image_processor_type="CLIPImageProcessor", **sizes)
    image = _image(tmp_path / "a.png")
    got = _outputs(bundle, "--image", image, "--text", "a cat", "--text", "a", "--text", "dog dog a")
    fed = transformers.CLIPImageProcessorPil(**sizes)(
        images=[transformers.image_utils.load_image(str(image))], return_tensors="pt"
    )
    texts = {"input_ids": [[2, 3, 0], [2, 0, 0], [4, 4, 2]], "attention_mask": [[1, 1, 0], [1, 0, 0], [1, 1, 1]]}
    expected = model(**fed, **{name: torch.tensor(values) for name, values in texts.items()})
    assert got["logits_per_image"].shape == (1, 3)
    _close(got["logits_per_image"], expected.logits_per_image)
    only_text = _run("run", bundle, "--text", "a cat")
    assert (only_text.exit_code, "pixel_values" in only_text.stderr) == (2, True)


def test_the_device_needs_neither_torch_nor_transformers(seeing: tuple[Any, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeattn.bundle import open_bundle; from edgeattn.preprocess import feeds\n"
        f"made = feeds(open_bundle({str(seeing[1])!r}), images=[Path({str(_image(tmp_path / 'a.png'))!r})])\n"
        "print(made['pixel_values'].shape, sorted({'torch', 'transformers', 'onnx', 'click'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 3, 32, 32) []"
    assert list(feeds(open_bundle(seeing[1]), images=[tmp_path / "a.png"])) == ["pixel_values"]
