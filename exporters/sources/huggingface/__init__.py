"""A local Hugging Face folder: config.json, safetensors weights, pre-processing files. Nothing is downloaded or executed.

`loading` checks and loads it, `inputs/` knows what models of each modality are fed, `folder` makes a source of both.
`attention` switches transformers' two interfaces: `masks` and `attending` make of each attention a spec. `adapters/` holds
what a family needs beyond that.
"""

from edgeattn.exporters.sources.huggingface.folder import from_folder

__all__ = ["from_folder"]
