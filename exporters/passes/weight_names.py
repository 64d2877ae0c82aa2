"""Give weights that torch's exporter transposed and renamed (`val_20`) the name of the module they belong to."""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.exporters.sites import module_path


class NameWeights(ir.passes.InPlacePass):
    """The constant factor of a MatMul becomes `<module>.weight.T`, so that a file can be read and a weight found."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = set(model.graph.initializers)
        modified = False
        for node in model.graph:
            weight = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
            name = f"{module_path(node)}.weight.T"
            if weight is None or not weight.is_initializer() or not _anonymous(weight.name) or name in taken:
                continue
            weight.name = name
            taken.add(name)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _anonymous(name: str | None) -> bool:
    return name is None or name.startswith("val_")
