"""The files of `decoding.py`'s peers: the same weights as a Hugging Face folder, and what each peer's exporter makes of it.

Files are written once to a folder and used again. A peer that cannot be made is named and left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch comes with it
    from edgeattn.exporters.sources.gguf_file import Gguf

_OPTIMUM_ONNX = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", library_name="transformers", local_files_only=True)
"""
_OPTIMUM_INTEL = """
import sys
from optimum.exporters.openvino import main_export
from optimum.intel import OVConfig
options = dict(library_name="transformers", local_files_only=True, ov_config=OVConfig(dtype="fp32"))
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", **options)
"""
_NO_OPTIMUM = "its files are not there, and --peers-python names no environment to make them in"
Maker = Callable[[Path], None]


def peer_folders(work: Path, gguf: Path | None, peers_python: str | None) -> dict[str, Path]:
    """Name -> folder of every peer whose files are there or can be made. `peers_python` has optimum-onnx and optimum-intel."""
    weights = work / "weights"
    optimum = None if peers_python is None else partial(_optimum, peers_python)
    makers: dict[str, tuple[str, Maker | str]] = {
        "torch eager": ("weights", partial(_weights, gguf)),
        "optimum-onnx": ("optimum_onnx", partial(optimum, _OPTIMUM_ONNX, weights) if optimum else _NO_OPTIMUM),
        "optimum-intel": ("optimum_intel", partial(optimum, _OPTIMUM_INTEL, weights) if optimum else _NO_OPTIMUM),
        "onnxruntime-genai": ("genai", partial(_genai, weights)),
    }
    if not find_spec("onnxruntime_genai"):
        del makers["onnxruntime-genai"]
        print("left out: onnxruntime-genai: pip install --no-deps onnxruntime-genai", file=sys.stderr)
    return {name: work / folder for name, (folder, maker) in makers.items() if _made(name, work / folder, maker)}


def _made(name: str, folder: Path, maker: Maker | str) -> bool:
    """Whether the files are there, or can be made; `maker` may be the reason why not. They are written beside their place
    first, so that what was broken off is not taken for whole."""
    if folder.exists():
        return True
    if isinstance(maker, str):
        print(f"left out: {name}: {maker}", file=sys.stderr)
        return False
    print(f"exporting: {name}", file=sys.stderr)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        maker(unfinished)
    except Exception as error:  # noqa: BLE001 - a peer's exporter may fail in any way; the others go on
        print(f"left out: {name}: {error}", file=sys.stderr)
        return False
    unfinished.rename(folder)
    return True


def source_file(gguf: Path | None) -> Path:
    """The GGUF file that a bundle was made of: the one given, or that of the name `smollm2`."""
    from edgeattn.exporters.sources.zoo import DEMO_COMMAND, MODELS

    path = gguf or MODELS["smollm2"].path()
    if path is None:
        raise SystemExit(f"no PyTorch model: give its --gguf FILE, or {DEMO_COMMAND}")
    return path


def read_source(gguf: Path | None) -> Gguf:
    """The PyTorch model in it, with its tokenizer."""
    from edgeattn.exporters.sources.gguf_file import read_gguf

    return read_gguf(source_file(gguf))


def _weights(gguf: Path | None, folder: Path) -> None:
    """The source's weights and tokenizer as transformers keeps them."""
    read = read_source(gguf)
    read.model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(read.tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    # where optimum's transformers looks for it; without, it takes a default of its own and says nothing
    settings["rope_theta"] = settings["rope_parameters"]["rope_theta"]
    config.write_text(json.dumps(settings, indent=2))


def _optimum(python: str, script: str, weights: Path, folder: Path) -> None:
    _run([python, "-c", script, str(weights), str(folder)])


def _genai(weights: Path, folder: Path) -> None:
    options = ["-m", "weights", "-i", str(weights), "-o", str(folder), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    _run([sys.executable, "-m", "onnxruntime_genai.models.builder", *options])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise RuntimeError(f"its export failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
