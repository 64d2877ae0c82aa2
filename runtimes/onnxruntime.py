"""ONNX Runtime on any of its execution providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from edgeattn.errors import RuntimeMissingError, RuntimeRunError, unknown
from edgeattn.manifest import FP32, SHARED, TensorInfo
from edgeattn.runtimes.base import (
    Availability,
    Effective,
    LoadOptions,
    Runtime,
    Session,
    resolve_threads,
    tensor_info,
    wrap_failure,
)
from edgeattn.runtimes.ort_custom import custom_operators, register
from edgeattn.runtimes.ort_session import NAME, OrtSession
from edgeattn.runtimes.ort_shared_cache import SharedCacheSession
from edgeattn.runtimes.ort_small_cache import SmallCacheSession
from edgeattn.runtimes.vendor import availability, import_onnxruntime

_CPU = "CPUExecutionProvider"
_UNKNOWN = "provider's choice"


@dataclass(frozen=True, slots=True)
class _Device:
    """How one device is asked for, and the precision its kernels compute an fp32 model in."""

    provider: str
    precision: str = "fp32"
    options: Mapping[str, str] = field(default_factory=dict)
    disabled: tuple[str, ...] = ()


_DEVICES: Mapping[str, _Device] = {
    # The kernel behind SkipLayerNormFusion is slower on CPU than the Add and LayerNormalization that it replaces:
    # 22 ms against 5 ms for all of them in one run of MiniLM at batch 8.
    "cpu": _Device(_CPU, disabled=("SkipLayerNormFusion",)),
    # TF32 keeps 10 bits of the mantissa; on by default, it would make fp32 mean something else than on every other device.
    "cuda": _Device("CUDAExecutionProvider", options={"use_tf32": "0"}),
    "tensorrt": _Device("TensorrtExecutionProvider", precision=_UNKNOWN),
    "coreml": _Device("CoreMLExecutionProvider", precision=_UNKNOWN),
    "directml": _Device("DmlExecutionProvider"),
    "qnn": _Device("QNNExecutionProvider", precision=_UNKNOWN),
    "xnnpack": _Device("XnnpackExecutionProvider"),
}

_DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_CACHES: dict[str, type[SharedCacheSession]] = {FP32: SharedCacheSession, "int8": SmallCacheSession}
"""Sessions by the type that a shared cache is kept in."""


class OnnxRuntime(Runtime):
    """ONNX Runtime; a device is an execution provider."""

    name: ClassVar[str] = NAME
    functions: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"custom_ops"})

    def check(self) -> Availability:
        """Whether the package imports, with its version. Never raises."""
        return availability("onnxruntime", import_onnxruntime, 'pip install "edgeattn[onnxruntime]"')

    @property
    def known_devices(self) -> tuple[str, ...]:
        """Every device name of the table, present or not."""
        return tuple(_DEVICES)

    def devices(self) -> tuple[str, ...]:
        """The devices whose provider is in the installed build. Their libraries and hardware show at load."""
        present = import_onnxruntime().get_available_providers()
        return tuple(name for name, device in _DEVICES.items() if device.provider in present)

    def _load(self, path: Path, options: LoadOptions) -> Session:
        device = _DEVICES[options.device]
        if options.kv not in _CACHES:
            raise unknown("type of a cache", options.kv, _CACHES)
        ort = import_onnxruntime()
        settings = _session_options(ort, options)
        register(settings, options.custom_ops)
        try:
            session = ort.InferenceSession(
                str(path),
                settings,
                providers=_providers(device, resolve_threads(options)),
                disabled_optimizers=list(device.disabled),
                enable_fallback=0,  # else the Python wrapper retries on other providers, at load and at every run
            )
        except Exception as error:  # its exceptions share no base below Exception
            raise wrap_failure(self.name, f"load {path.name}", error) from error
        _require_provider(options.device, device.provider, session.get_providers())
        effective = _effective(path, options, ort, session)
        kind = OrtSession if options.cache != SHARED else _CACHES[options.kv]
        return kind(_infos(session.get_inputs()), _infos(session.get_outputs()), effective, session)


def _require_provider(device: str, provider: str, active: Sequence[str]) -> None:
    """Raise RuntimeMissingError unless `provider` leads the `active` ones: ONNX Runtime itself goes on on the CPU."""
    if active[:1] != [provider]:
        raise RuntimeMissingError(
            f"onnxruntime could not start {provider} for device {device!r}; active instead: {', '.join(active) or 'none'}. "
            "Its driver or libraries are missing or of another version: install them, or ask for another device"
        )


def _session_options(ort: Any, options: LoadOptions) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = resolve_threads(options)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4 if options.quiet else 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.cache == SHARED:
        settings.enable_mem_pattern = False  # it keeps a plan for every length that it saw: kilobytes for each token
    if not options.spin:
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _providers(device: _Device, threads: int) -> list[tuple[str, dict[str, str]]]:
    chosen = dict(device.options)
    if device.provider == "XnnpackExecutionProvider":
        chosen["intra_op_num_threads"] = str(threads)  # it brings a thread pool of its own
    asked = [(device.provider, chosen)]
    # Nodes that a provider has no kernel for (shapes, above all) run on the CPU; `effective` counts them.
    return asked if device.provider == _CPU else [*asked, (_CPU, {})]


def _infos(values: Sequence[Any]) -> list[TensorInfo]:
    return [tensor_info(value.name, _dtype(value), value.shape) for value in values]


def _dtype(value: Any) -> str:
    if value.type not in _DTYPES:
        raise RuntimeRunError(
            f"onnxruntime: {value.name!r} is a {value.type}, which numpy cannot hold; "
            f"export the model with one of {', '.join(_DTYPES.values())} there"
        )
    return _DTYPES[value.type]


def _effective(path: Path, options: LoadOptions, ort: Any, session: Any) -> Effective:
    precision = _DEVICES[options.device].precision
    return Effective(
        runtime=OnnxRuntime.name,
        version=ort.__version__,
        device=options.device,
        threads=session.get_session_options().intra_op_num_threads,
        precision=precision,
        kv_precision=options.kv if options.kv != FP32 else precision,  # an ordinary input here, in the model's own type
        details={
            "providers": ", ".join(session.get_providers()),
            **_node_counts(session),
            **custom_operators(path, options.custom_ops, session),
        },
    )


def _node_counts(session: Any) -> dict[str, str]:
    """Nodes by provider, as they were shared out: before a provider fuses its own."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # newer than the oldest version we accept
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return {"nodes": ", ".join(f"{count} on {name}" for name, count in counts.most_common())}
