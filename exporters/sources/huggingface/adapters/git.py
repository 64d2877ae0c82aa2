"""GIT attends by hand, as BLIP's text model does. Its mask lets the tokens of the image see each other: a dense one.

Wang et al., "GIT: A Generative Image-to-text Transformer", 2022 (https://arxiv.org/abs/2205.14100).
"""

from __future__ import annotations

from edgeattn.exporters.sources.huggingface.adapters.base import Adapter, replacing
from edgeattn.exporters.sources.huggingface.adapters.blip import text_forward

GIT = Adapter(("GitSelfAttention",), replacing({"GitSelfAttention": text_forward}), interface=True)
