"""The kinds of smaller numbers, each for a runtime, from the most aggressive to the most careful."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgeattn.errors import UsageError, unknown

Numbers = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a product or an embedding. `weights` is what is stored; `activations` what a product multiplies the
    weights with: int8 means that the runtime rounds its inputs too. `calibrated`: it needs inputs as the model will see them."""

    name: str
    runtime: str
    weights: Numbers
    activations: Numbers
    summary: str
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """Something of a model that has a kind: the name of its weights, and how many numbers they are."""

    weight: str
    elements: int

    @property
    def role(self) -> str:
        """What layers of a stack have in common: the name without numbers."""
        return re.sub(r"\d+", "#", self.weight)


ORT, OPENVINO = "onnxruntime", "openvino"

KINDS: tuple[Kind, ...] = (
    Kind("int4", ORT, "int4", "int8", "MatMulNBits: blocks of 32 weights, inputs rounded to int8 block by block"),
    Kind("int8-dynamic", ORT, "int8", "int8", "MatMulInteger: a scale per column, inputs rounded with one scale per run", True),
    Kind("int8", ORT, "int8", "int8", "MatMulNBits: blocks of 32 weights, inputs rounded to int8 block by block"),
    Kind("fp16", ORT, "fp16", "fp32", "weights stored in half the bytes, computed in fp32"),
    Kind("int4", OPENVINO, "int4", "int8", "groups of 64 weights, inputs rounded to int8 in groups"),
    Kind("int8-static", OPENVINO, "int8", "int8", "inputs rounded with scales found beforehand", calibrated=True),
    Kind("int8", OPENVINO, "int8", "int8", "a scale per column, inputs rounded to int8 in groups"),
    Kind("int8-weights", OPENVINO, "int8", "fp32", "a scale per column, computed in fp32"),
    Kind("fp16", OPENVINO, "fp16", "fp32", "weights stored in half the bytes, computed in fp32"),
)


def kinds_for(runtime: str) -> tuple[Kind, ...]:
    """Those of a runtime, the most aggressive first."""
    return tuple(kind for kind in KINDS if kind.runtime == runtime)


def kind(runtime: str, name: str) -> Kind:
    """The one of that name.

    Raises:
        UsageError: the runtime has none of that name, or none at all.
    """
    found = {each.name: each for each in kinds_for(runtime)}
    if not found:
        raise UsageError(f"{runtime} runs fp32 only here; the runtimes with smaller numbers are {ORT} and {OPENVINO}")
    if name not in found:
        raise unknown(f"precision for {runtime}", name, found)
    return found[name]
