"""An OpenVINO flavour with smaller numbers in it, by NNCF: products with constant weights and embeddings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.errors import RuntimeMissingError
from edgeattn.exporters.quantize.kinds import HALF_MAX, SMALLEST, Kind, Layer
from edgeattn.exporters.quantize.observing import Feeds
from edgeattn.exporters.quantize.quiet import quiet
from edgeattn.exporters.quantize.ranges import Method, nncf_options
from edgeattn.exporters.quantize.smooth import STRENGTH
from edgeattn.exporters.stateful.weights import save
from edgeattn.openvino_ir import NOTE, SUFFIX, Note, read_ir
from edgeattn.runtimes.vendor import import_nncf, import_openvino

_GROUP = 64
_TAKEN = ("MatMul", "Gather", "ScaledDotProductAttention", "Convolution", "GroupConvolution")
"""Types that NNCF writes in smaller numbers."""


def read(path: Path) -> Any:
    """The flavour as OpenVINO's model."""
    core = import_openvino().Core()
    note = read_ir(path).note() if path.suffix == SUFFIX else None
    return core.read_model(path, path.parent / note.weights) if note else core.read_model(path)


def layers(model: Any) -> dict[str, Layer]:
    """Products with constant weights and embeddings, by name, in the order of the graph."""
    found = {}
    for node in model.get_ordered_ops():
        place = {"MatMul": 1, "Gather": 0}.get(node.get_type_name())
        weights = _matrix(node.input_value(place).get_node()) if place is not None else None
        if weights is not None:
            found[node.get_friendly_name()] = Layer(weights.get_friendly_name(), int(np.prod(weights.get_output_shape(0))))
    return found


def input_names(model: Any) -> set[str]:
    """The inputs of a model; what does not matter to it is none."""
    return {name for port in model.inputs for name in port.get_names()}


def quantized(model: Any, kinds: Mapping[str, Kind], samples: Sequence[Feeds] = (), method: Method | None = None) -> Any:
    """`model` with the layers of `kinds`, by name, written so; it may be changed in place. `samples` are for kinds that need them,
    `method` is how their ranges are found.

    Raises:
        RuntimeMissingError: NNCF is not installed.
    """
    nncf = _import_nncf()
    named = {name: {layer for layer, kind in kinds.items() if kind.name == name} for name in ("int8-static", "int4")}
    with quiet():
        if static := named["int8-static"]:
            model = _static(nncf, model, static, samples, method)
        if int4 := named["int4"]:
            model = _groups(nncf, model, int4)
        if int8 := {layer for layer, kind in kinds.items() if kind.name in ("int8", "int8-weights")}:
            model = nncf.compress_weights(
                model, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=_all_but(nncf, model, int8)
            )
    if halves := {layer for layer, kind in kinds.items() if kind.weights == "fp16"}:
        _halves(model, halves)
    return model


def write(model: Any, path: Path, weights: Path, note: Note) -> dict[str, int]:
    """Save as XML, its numbers appended to `weights`; returns its domains, as a manifest has them."""
    model.set_rt_info(note.dumps(), list(NOTE))
    save(model, path, weights, [])
    return {"openvino": max(int(layer.opset.removeprefix("opset")) for layer in read_ir(path).layers)}


def _all_but(nncf: Any, model: Any, wanted: Collection[str]) -> Any:
    """NNCF takes whatever it is not told to leave: attention, and weights too small to count as a layer, among them."""
    found = (node for node in model.get_ops() if node.get_type_name() in _TAKEN)
    return nncf.IgnoredScope(names=sorted({node.get_friendly_name() for node in found} - set(wanted)), validate=False)


def _groups(nncf: Any, model: Any, wanted: Collection[str]) -> Any:
    """A matrix whose columns are no multiple of the group gets a smaller one, or int8 where that would be too small."""
    advanced = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=_GROUP,
        ratio=1.0,
        all_layers=True,
        ignored_scope=_all_but(nncf, model, wanted),
        advanced_parameters=advanced,
    )


def _static(nncf: Any, model: Any, wanted: Collection[str], samples: Sequence[Feeds], method: Method | None) -> Any:
    names = [port.get_any_name() for port in model.inputs]
    smoothing = nncf.AdvancedSmoothQuantParameters(matmul=STRENGTH)
    data = nncf.Dataset([{name: feeds[name] for name in names} for feeds in samples])
    return nncf.quantize(
        model,
        data,
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=_all_but(nncf, model, wanted),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing, **nncf_options(nncf, method)),
    )


def _halves(model: Any, wanted: Collection[str]) -> None:
    """Weights of `wanted` in float16, except where it cannot hold them. OpenVINO's own pass takes every constant of the model,
    and cuts numbers off at the largest of float16; what it should have left is put back."""
    from openvino._offline_transformations import compress_model_transformation

    halved = {layer.weight for name, layer in layers(model).items() if name in wanted}
    kept = []
    for port in [port for node in model.get_ops() for port in node.inputs()]:
        constant = port.get_source_output().get_node()
        if constant.get_type_name() == "Constant" and constant.get_element_type().get_type_name() == "f32":
            fits = constant.get_friendly_name() in halved and np.abs(constant.data).max() <= HALF_MAX
            if not fits:
                kept.append((port, port.get_source_output()))
    compress_model_transformation(model)
    for port, source in kept:
        port.replace_source_output(source)


def _matrix(node: Any) -> Any:
    """The constant behind `node` that is a large matrix of real numbers; None where there is none."""
    while node.get_type_name() in ("Convert", "Transpose"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    shape = node.get_output_shape(0)
    return node if len(shape) == 2 and np.prod(shape) >= SMALLEST and node.get_element_type().is_real() else None


def _import_nncf() -> Any:
    try:
        with quiet():
            return import_nncf()
    except ImportError as error:
        raise RuntimeMissingError(
            f'smaller numbers on OpenVINO need the package nncf ({error}); fix: pip install "edgeattn[quantize]"'
        ) from error
