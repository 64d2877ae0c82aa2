"""`edgeattn generate` with an encoder-decoder: a text, a sound or an image is answered as transformers answers it."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tokenizers import Tokenizer
from transformers import ViTImageProcessorPil, WhisperFeatureExtractor

from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.decoding.tokens import Stream, Tokens
from tests.edgeattn.decoding.pairs import Pair
from tests.edgeattn.decoding.small import RUNTIMES

PROMPT, COUNT = "The cat sat on the mat", 12


def _sound(path: Path) -> np.ndarray[Any, Any]:
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(12_000) / 16_000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return samples / np.float32(1 << 15)


def _asked(pair: Pair, folder: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Arguments, and what transformers' own pre-processing makes of the same."""
    if pair.reads == "image":
        path = folder / "a.png"
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8))
        image.save(path)
        made = ViTImageProcessorPil.from_pretrained(pair.folder)(image, return_tensors="pt")
        return ["--image", str(path)], {"pixel_values": made["pixel_values"]}
    if pair.reads == "sound":
        sound = _sound(folder / "a.wav")
        features = WhisperFeatureExtractor.from_pretrained(pair.folder)(sound, sampling_rate=16_000, return_tensors="pt")
        return ["--audio", str(folder / "a.wav")], {"input_features": features["input_features"]}
    ids = torch.tensor([Tokenizer.from_file(str(pair.folder / "tokenizer.json")).encode(PROMPT).ids])
    return [PROMPT], {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _text(bundle: Path, ids: list[int]) -> str:
    """Up to the end of the text."""
    tokens = Tokens(open_bundle(bundle))
    stream = Stream(tokens)
    assert tokens.stop == (0,)
    return "".join(stream.add(token) for token in (ids[: ids.index(0) + 1] if 0 in ids else ids))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_command_answers_as_transformers_does(pair: Pair, tmp_path: Path, runtime: str) -> None:
    arguments, feeds = _asked(pair, tmp_path)
    result = CliRunner().invoke(
        cli, ["generate", str(pair.bundle), *arguments, "-r", runtime, "--max-new-tokens", str(COUNT), "--json"]
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["text"] == _text(pair.bundle, pair.greedy(feeds, COUNT)[0])
    assert data["prompt_tokens"] == (feeds["input_ids"].shape[1] if "input_ids" in feeds else 1)
    assert data["effective"].startswith(runtime)


def test_answers_begin_as_the_user_says(pair: Pair, tmp_path: Path) -> None:
    arguments, feeds = _asked(pair, tmp_path)
    words = ["generate", str(pair.bundle), *arguments, "--max-new-tokens", "5", "--json", "--begin"]
    given, own = (json.loads(CliRunner().invoke(cli, [*words, begin]).stdout)["text"] for begin in ("cat", "dog sat"))
    assert given != own
    begin = torch.tensor([Tokenizer.from_file(str(pair.folder / "tokenizer.json")).encode("cat").ids])
    first = int(pair.logits(feeds, begin)[0, -1].argmax())
    assert given.startswith(_text(pair.bundle, [first]).rstrip("\ufffd"))


def test_wrong_arguments(pair: Pair, tmp_path: Path) -> None:
    arguments, feeds = _asked(pair, tmp_path)
    other = ["--audio", str(tmp_path / "b.wav")] if pair.reads == "text" else [PROMPT]
    needs = "has no audio settings" if pair.reads == "text" else f"answers no text: it reads {next(iter(feeds))}"
    for given, message in (
        ([], "give one of a PROMPT, a sound (--audio FILE) and an image (--image FILE)"),
        ([*arguments, *other], "give one of a PROMPT, a sound (--audio FILE) and an image (--image FILE)"),
        (other, needs),
        ([*arguments, "--system", "Be brief."], "--system 'Be brief.' has no place to go: the model has an encoder"),
    ):
        result = CliRunner().invoke(cli, ["generate", str(pair.bundle), *given])
        assert result.exit_code == 2
        assert message in result.output
