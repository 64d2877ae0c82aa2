"""From a folder to a loaded model, with everything that could make it another model refused."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from edgeattn.errors import SourceError
from edgeattn.exporters.sources.huggingface.pooling import read_json


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, which names a class of transformers and asks for no code of its own, and the weights beside it.

    Raises:
        SourceError: it does not, or there are no weights that can be loaded without running code.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(f"{folder} has no config.json; a Hugging Face folder holds config.json and *.safetensors")
    config = read_json(path)
    if not isinstance(config, dict):
        raise SourceError(f"{path} must hold a JSON object, got {type(config).__name__}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        likely = _likely(config.get("model_type"))
        raise SourceError(f'{path} names no architecture; add "architectures": ["{likely}"], as the weights were saved')
    if config.get("auto_map"):
        raise SourceError(
            f"{path} asks for code of its own (auto_map: {config['auto_map']!r:.200}), and code from a model folder is not run; "
            f"if the weights are those of transformers' own {architectures[0]}, take auto_map out of config.json, "
            "else write a factory: file.py:function"
        )
    weights_file(folder)
    return dict(config)


def weights_file(folder: Path) -> Path:
    """The first file of weights. Raises SourceError where there is none that is safe to read."""
    found = sorted(folder.glob("*.safetensors"))
    if [path.name for path in found] == ["adapter_model.safetensors"]:
        raise SourceError(
            f"{folder} holds an adapter without its model; merge the two: PeftModel.merge_and_unload().save_pretrained(folder)"
        )
    if found:
        return found[0]
    pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
    if pickled is not None:
        raise SourceError(
            f"{folder} has only pickled weights ({pickled.name}), which can run code when loaded; "
            "convert them to model.safetensors with safetensors.torch.save_file"
        )
    raise SourceError(f"{folder} has no weights: no *.safetensors file")


def load(folder: Path, config: dict[str, Any]) -> Any:
    """The model in float32, without a cache, ready to run.

    Raises:
        SourceError: transformers or the class is missing, or the weights are not those of the class.
    """
    try:
        import transformers
    except ImportError as error:
        raise SourceError('a Hugging Face folder needs transformers; fix: pip install "edgeattn[hf]"') from error
    name = config["architectures"][0]
    cls: Any = getattr(transformers, name, None)
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not is_model:
        raise SourceError(
            f"transformers {transformers.__version__} has no architecture {name!r}{_near(name, dir(transformers))}"
        )
    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, found = cls.from_pretrained(folder, **options)
    except Exception as error:
        raise SourceError(f"{folder}: transformers cannot load {name}: {error}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise SourceError(
            f"{folder}: the weights lack {len(missing)} of {name}'s parameters ({', '.join(missing[:3])}, ...), which would be "
            'random; set "architectures" in config.json to the class that was saved, or train and save the whole model'
        )
    for part in model.modules():  # a decoder has a config of its own
        own: Any = getattr(part, "config", None)
        if hasattr(own, "return_dict"):
            own.return_dict, own.use_cache = True, False
        if hasattr(own, "output_router_logits"):  # for the loss of training
            own.output_router_logits = False
    return model.eval()


def tensors_only(_model: Any, _args: Any, output: Any) -> Any:
    """A forward hook: what is no tensor (caches, one tensor per layer, outputs of parts) is left out of a model's output."""
    from transformers.utils import ModelOutput

    if not isinstance(output, ModelOutput):
        return output
    return type(output)(**{name: value for name, value in output.items() if isinstance(value, torch.Tensor)})


def _likely(model_type: Any) -> str:
    try:
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
    except ImportError:
        return "<class of transformers>"
    likely = MODEL_MAPPING_NAMES.get(model_type, "<class of transformers>") if isinstance(model_type, str) else ""
    return likely if isinstance(likely, str) and likely else "<class of transformers>"


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    hint = f"; near to it: {', '.join(near)}" if near else ""
    return f"{hint}; a newer transformers may have it, and code from a model folder is not run"
