"""A local Hugging Face folder: config.json, safetensors weights, pre-processing files. Nothing is downloaded or executed.

`folder` reads and checks it, `inputs/` knows what models of each modality are fed, `attention` makes their attention arrive
as specs, and `adapters/` holds what a family needs beyond that.
"""

from edgeattn.exporters.sources.huggingface.folder import from_folder

__all__ = ["from_folder"]
