"""Which adapters a model needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from edgeattn.exporters.sources.huggingface.adapters import blip, bloom, deberta, falcon, git, mamba, mamba2, mpnet, swinv2
from edgeattn.exporters.sources.huggingface.adapters.base import Adapter

ADAPTERS: tuple[Adapter, ...] = (
    blip.BLIP,
    git.GIT,
    bloom.BLOOM,
    deberta.DEBERTA_V2,
    falcon.FALCON,
    mamba.MAMBA,
    mamba2.MAMBA2,
    mpnet.MPNET,
    swinv2.SWINV2,
)

TASKS: dict[str, Callable[[Any], nn.Module]] = {"BlipForQuestionAnswering": blip.BlipAnswer}
"""Classes whose forward pass does not give what they are for -> a module around them that does."""


def task(model: Any) -> nn.Module:
    """`model`, or the module that makes its task of it."""
    around = TASKS.get(type(model).__name__)
    whole: nn.Module = model if around is None else around(model)
    return whole


def adapters(model: Any) -> list[Adapter]:
    """Those for the classes of the model's modules."""
    present = {type(module).__name__ for module in model.modules()}
    return [adapter for adapter in ADAPTERS if present.intersection(adapter.classes)]
