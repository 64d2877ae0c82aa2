"""OpenVINO on CPU, GPU or NPU, told to compute in fp32 unless the model says otherwise."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from edgeattn.errors import EdgeAttnError, RuntimeRunError, unknown
from edgeattn.manifest import FP32, TensorInfo
from edgeattn.openvino_ir import SUFFIX, read_ir
from edgeattn.operators import defined_operators
from edgeattn.runtimes.base import (
    CUSTOM,
    Array,
    Availability,
    Effective,
    LoadOptions,
    Runtime,
    Session,
    resolve_threads,
    wrap_failure,
)
from edgeattn.runtimes.openvino_ports import cause, match
from edgeattn.runtimes.openvino_request import run
from edgeattn.runtimes.openvino_stateful import StatefulSession, token_shapes
from edgeattn.runtimes.vendor import availability, import_openvino

_DEVICES: Mapping[str, str] = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"}

_SETTINGS: Mapping[str, object] = {
    "PERFORMANCE_HINT": "LATENCY",
    # Each of these is bf16, int8 or uint8 by default where the hardware is quicker so, in spite of an fp32 model.
    "INFERENCE_PRECISION_HINT": "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "KV_CACHE_PRECISION": "f32",
}

_GROUP = 64
"""Inputs of a product that are rounded with one scale, where they may be rounded: with fewer a prompt takes longer."""

_CACHES: Mapping[str, str] = {"fp32": "f32", "fp16": "f16", "int8": "u8"}
"""What OpenVINO calls the types that it keeps a decoder's keys and values in."""

_PRECISIONS = {"f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "uint8", "i8": "int8"}


class OpenVINO(Runtime):
    """OpenVINO; `auto` lets it choose among the devices present, and `effective` says which it chose."""

    name: ClassVar[str] = "openvino"
    takes: ClassVar[frozenset[str]] = frozenset({"extensions"})
    stateful: ClassVar[frozenset[str]] = frozenset({"cpu"})

    def check(self) -> Availability:
        """Whether the package imports, with its version. Never raises."""
        found = availability("openvino", import_openvino, 'pip install "edgeattn[openvino]"')
        # the version carries a build number and a branch after the first dash
        return Availability(found.ok, found.reason, found.how_to_install, found.version.partition("-")[0])

    @property
    def known_devices(self) -> tuple[str, ...]:
        """Every device name, present or not."""
        return tuple(_DEVICES)

    def devices(self) -> tuple[str, ...]:
        """The devices with a plug-in and hardware here; `auto` wherever there is one."""
        present = {name.partition(".")[0] for name in self._core.available_devices}
        return tuple(name for name, device in _DEVICES.items() if device in present or (name == "auto" and present))

    @cached_property
    def _core(self) -> Any:
        return import_openvino().Core()

    def _load(self, path: Path, options: LoadOptions) -> Session:
        core = self._extended(options.extensions) if options.extensions else self._core
        note = read_ir(path).note() if path.suffix == SUFFIX else None
        model = self._read(core, path, note.weights if note else None)
        device = _DEVICES[options.device]
        try:
            settings = self._settings(device, options)
            compiled = core.compile_model(model, device, settings)
            effective = self._effective(path, options, compiled)
            if note is not None and note.variables:
                token = None
                if note.token:
                    model.reshape(token_shapes(note))  # after it was compiled, which took a copy; numbers are shared
                    token = core.compile_model(model, device, settings)
                return StatefulSession(note, effective, compiled, token)
            if note is not None:
                return _OpenVINOSession(note.inputs, note.outputs, effective, compiled)
            inputs = match(path, compiled.inputs, 0)
            outputs = match(path, compiled.outputs, 1)
        except EdgeAttnError:
            raise
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(self.name, f"compile {path.name} for {options.device}", cause(error)) from error
        return _OpenVINOSession(inputs, outputs, effective, compiled)

    def _extended(self, extensions: Sequence[object]) -> Any:
        """A core of its own, since an extension stays with the core and the core is shared."""
        core = import_openvino().Core()
        for extension in extensions:
            try:
                core.add_extension(os.path.abspath(extension) if isinstance(extension, str | os.PathLike) else extension)
            except Exception as error:  # its exceptions share no base below Exception
                raise wrap_failure(self.name, f"add the extension {extension!r}", cause(error)) from error
        return core

    def _read(self, core: Any, path: Path, weights: str | None) -> Any:
        try:
            # Asked first, since read_model offers a damaged file to every other front end, each with its own complaint.
            if path.suffix == ".onnx" and not _onnx_frontend().supported(str(path)):
                raise RuntimeRunError(f"openvino failed to load {path.name}: the file is not an ONNX model, or truncated")
            return core.read_model(path, path.parent / weights) if weights else core.read_model(path)
        except EdgeAttnError:
            raise
        except Exception as error:  # its exceptions share no base below Exception
            if re.search(r"operations:.*\bedgeattn\.", str(error)):
                raise RuntimeRunError(
                    f"openvino failed to load {path.name}: it holds attention in canonical form (functions of domain "
                    "'edgeattn'), which OpenVINO does not inline; load the flavour that was exported for openvino"
                ) from error
            if path.suffix == ".onnx" and (defined := defined_operators(path)):
                names = ", ".join(map(str, defined))
                raise RuntimeRunError(
                    f"openvino failed to load {path.name}: {cause(error)}. The file defines {names} as functions, which OpenVINO does "
                    "not inline; load the flavour that was exported for openvino, or pass extensions=[ConversionExtension(...)]"
                ) from error
            raise wrap_failure(self.name, f"load {path.name}", cause(error)) from error

    def _settings(self, device: str, options: LoadOptions) -> dict[str, object]:
        """The settings and the thread count, as far as `device` knows them."""
        if options.kv not in _CACHES:
            raise unknown("type of a cache", options.kv, _CACHES)
        rounds = options.activations == "int8"
        wanted = {
            **_SETTINGS,
            "INFERENCE_NUM_THREADS": resolve_threads(options),
            # `ACCURACY` keeps inputs and caches in fp32 whatever else is asked, and whatever the compiled model says of itself.
            **({"EXECUTION_MODE_HINT": "PERFORMANCE"} if rounds or options.kv != FP32 else {}),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if rounds else 0,
            "KV_CACHE_PRECISION": _CACHES[options.kv],
        }
        if device != "AUTO":
            return self._known(device, wanted)
        each = {name: self._known(name, wanted) for name in self._core.available_devices}
        # Without the start-up fallback off, AUTO runs on the CPU until the other device has compiled.
        return {**self._known(device, wanted), "ENABLE_STARTUP_FALLBACK": False, "DEVICE_PROPERTIES": each}

    def _known(self, device: str, wanted: Mapping[str, object]) -> dict[str, object]:
        access = self._core.get_property(device, "SUPPORTED_PROPERTIES")
        return {name: value for name, value in wanted.items() if access.get(name) == "RW"}

    def _effective(self, path: Path, options: LoadOptions, compiled: Any) -> Effective:
        reported = _reported(compiled)
        # OpenVINO runs no function of a file: whatever the file defines was converted by an extension
        named = options.extensions and path.suffix == ".onnx"
        converted = [f"{operator} extension" for operator in defined_operators(path)] if named else []
        return Effective(
            runtime=self.name,
            version=self.check().version,
            device=options.device,
            threads=int(reported.get("INFERENCE_NUM_THREADS", resolve_threads(options))),
            precision=_precision(reported.get("INFERENCE_PRECISION_HINT")),
            kv_precision=_precision(reported.get("KV_CACHE_PRECISION")),
            details={
                "devices": ", ".join(compiled.get_property("EXECUTION_DEVICES")),
                "execution mode": getattr(reported.get("EXECUTION_MODE_HINT"), "name", "not reported").lower(),
                "dynamic quantization group": str(reported.get("DYNAMIC_QUANTIZATION_GROUP_SIZE", "not reported")),
                "products": _products(compiled),
                **({CUSTOM: ", ".join(converted)} if converted else {}),
            },
        )


class _OpenVINOSession(Session):
    """Fed and read by position: names are ours, see `match`."""

    def __init__(
        self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], effective: Effective, compiled: Any
    ) -> None:
        super().__init__(inputs, outputs, effective)
        self._request = compiled.create_infer_request()

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        numbered = {index: feeds[info.name] for index, info in enumerate(self.inputs)}
        try:
            run(self._request, numbered)
            # copied: the next run writes into the request's own memory
            return {info.name: self._request.get_output_tensor(i).data.copy() for i, info in enumerate(self.outputs)}
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(self.effective.runtime, "run the model", cause(error)) from error

    def _close(self) -> None:
        self._request = None


def _onnx_frontend() -> Any:
    import_openvino()
    from openvino.frontend import FrontEndManager

    return FrontEndManager().load_by_framework("onnx")


def _reported(compiled: Any) -> dict[str, Any]:
    """What the compiled model says of itself; for `auto`, what the chosen device says."""
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    if "DEVICE_PROPERTIES" in known:
        chosen = compiled.get_property("EXECUTION_DEVICES")[0]
        return dict(compiled.get_property("DEVICE_PROPERTIES").get(chosen, {}))
    return {name: compiled.get_property(name) for name in (*_SETTINGS, "INFERENCE_NUM_THREADS") if name in known}


def _products(compiled: Any) -> str:
    """Products as the plug-in runs them, by the types of what they multiply: `31 u8 by i8, 5 f32 by f32`."""
    try:
        ran = compiled.get_runtime_model().get_ops()
    except Exception:  # noqa: BLE001 - not every device tells, and its exceptions share no base below Exception
        return "not reported"
    found = Counter(
        " by ".join(node.get_input_element_type(index).get_type_name() for index in (0, 1))
        for node in ran
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    )
    return ", ".join(f"{count} {types}" for types, count in found.most_common()) or "none"


def _precision(kind: Any) -> str:
    name = kind.get_type_name() if kind is not None else "not reported"
    return _PRECISIONS.get(name, name)
