"""One value per output, under the name that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def output_names(model: ir.Model) -> list[str]:
    """The names of the outputs in order."""
    return [value.name or "" for value in model.graph.outputs]


def separate_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Give output i the name `names[i]`; one that is an input, or another output as well, becomes a copy.

    Exporters and passes that merge equal values merge outputs too, and then one name is lost.
    """
    graph = model.graph
    taken = set(graph.inputs)
    for i, name in enumerate(names):
        value = graph.outputs[i]
        if value in taken:
            graph.append(copy := ir.node("Identity", [value]))
            copied = copy.outputs[0]
            copied.shape, copied.type = value.shape, value.type
            graph.outputs[i] = value = copied
        taken.add(value)
        value.name = name
