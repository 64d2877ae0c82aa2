"""Files as others export them: small models of transformers, through each of torch's exporters and ONNX Runtime's optimizer."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}


class Wrapped(nn.Module):
    """The last hidden state of a model, called with its inputs in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden


def tiny(family: str, attention: str) -> Wrapped:
    """A model of a family with random weights, its attention far from uniform; `attention`: eager or sdpa."""
    import transformers

    torch.manual_seed(0)
    options: dict[str, Any] = {"attn_implementation": attention, "initializer_range": 0.3}
    if family == "bert":
        config = transformers.BertConfig(max_position_embeddings=64, **SIZES, **options)
        model = transformers.BertModel(config, add_pooling_layer=False)
    elif family == "albert":
        config = transformers.AlbertConfig(
            max_position_embeddings=64, embedding_size=24, num_hidden_groups=1, **SIZES, **options
        )
        model = transformers.AlbertModel(config, add_pooling_layer=False)
    elif family == "gpt2":
        tokens = {"bos_token_id": 0, "eos_token_id": 0}
        config = transformers.GPT2Config(
            n_embd=24, n_layer=2, n_head=3, vocab_size=50, n_positions=64, use_cache=False, **tokens, **options
        )
        model = transformers.GPT2Model(config)
    else:
        sizes = SIZES | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = transformers.LlamaConfig(max_position_embeddings=64, use_cache=False, **sizes, **options)
        model = transformers.LlamaModel(config)
    return Wrapped(model).eval()


def save(module: nn.Module, path: Path, exporter: int | str = 18) -> Path:
    """Export with dynamic batch and sequence: by torch.export in the opset given, or by `torchscript`."""
    ids = torch.arange(14).reshape(2, 7)
    names = ["input_ids", "attention_mask"]
    arguments = (ids, torch.ones_like(ids))
    with _quiet():
        if exporter == "torchscript":
            axes = {name: {0: "batch", 1: "sequence"} for name in names}
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=names,
                output_names=["hidden"],
                dynamic_axes=axes,
            )
        else:
            axis = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=64)}
            torch.onnx.export(
                module, arguments, str(path), dynamo=True, opset_version=int(exporter), input_names=names, output_names=["hidden"],
                dynamic_shapes=(axis, axis), verbose=False,
            )  # fmt: skip
    return path


def optimized(path: Path, output: Path, heads: int = 3, hidden: int = 24) -> Path:
    """A file as ONNX Runtime's optimizer for transformers writes it."""
    from onnxruntime.transformers import optimizer

    with _quiet():
        model = optimizer.optimize_model(str(path), "bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    model.save_model_to_file(str(output))
    return output


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
