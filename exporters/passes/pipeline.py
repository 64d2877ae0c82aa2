"""The two pass pipelines: after capture, and after lowering."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgeattn.exporters.passes.dimensions import ShareDimensions
from edgeattn.exporters.passes.gelu import OrderGelu
from edgeattn.exporters.passes.merged_products import MergeProducts
from edgeattn.exporters.passes.outputs import output_names, separate_outputs
from edgeattn.exporters.passes.reshapes import CancelMovement
from edgeattn.exporters.passes.rms_norm import DivideByRoot
from edgeattn.exporters.passes.tied_weights import ShareWeights
from edgeattn.exporters.passes.weight_names import NameWeights


def clean(model: ir.Model) -> None:
    """Tidy a captured model in place, without touching its canonical nodes' borders."""
    _run(
        model,
        OrderGelu(),
        DivideByRoot(),
        common.IdentityEliminationPass(),
        common.DeduplicateInitializersPass(),
        ShareDimensions(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        ShareWeights(),
        NameWeights(),
        MergeProducts(),
        common.NameFixPass(),
    )


def finish(model: ir.Model) -> None:
    """Tidy a lowered model in place: share what the sites have in common, drop movement that cancels."""
    _run(
        model,
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        ShareDimensions(),
        common.CommonSubexpressionEliminationPass(),
        common.ShapeInferencePass(),
        CancelMovement(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )


def _run(model: ir.Model, *passes: ir.passes.PassBase) -> None:
    names = output_names(model)
    ir.passes.Sequential(*passes)(model)
    separate_outputs(model, names)
