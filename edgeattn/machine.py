"""Facts about this machine, stored beside every number that was measured on it. Standard library alone."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

PACKAGES = (
    "numpy", "click", "rich", "onnxruntime", "openvino", "pillow", "tokenizers", "torch", "onnx", "onnx-ir", "onnxscript", "transformers",
)  # fmt: skip
"""Packages whose versions decide what edgeattn can do and how fast it is."""

_FEATURES = (
    "avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 "
    "neon asimd asimdhp asimddp fphp i8mm bf16 sve sve2 sme"
)


def facts() -> dict[str, str]:
    """Everything a reader of a measurement needs to know about the machine, as text by name."""
    return {
        "cpu": cpu_model(),
        "cpu features": " ".join(cpu_features()),
        "cores": str(os.cpu_count() or "unknown"),
        "cores usable": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "cgroup quota": cgroup_quota(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "memory": memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def package_versions() -> dict[str, str]:
    """Version of each package of PACKAGES that is installed."""
    from importlib import metadata  # slow to import, and of no use to a device that only loads a model

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    fields = _cpuinfo()
    return fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()


@cache
def cpu_features() -> tuple[str, ...]:
    """The instruction sets that runtimes choose kernels by, sorted; empty where the system does not tell."""
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return tuple(sorted(set(_FEATURES.split()) & set(flags)))


def cpu_identity() -> str:
    """Model and features in one line: what makes two CPUs run different kernels."""
    return f"{cpu_model()} [{' '.join(cpu_features())}]"


def cgroup_quota() -> str:
    """CPUs this process's cgroup may use: `2.0 CPUs`, `none`, or `unknown`."""
    version_1 = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    fields = _read("/sys/fs/cgroup/cpu.max").split() or [text for text in version_1 if text]
    if len(fields) != 2:
        return "unknown"
    return "none" if fields[0] in ("max", "-1") else f"{int(fields[0]) / int(fields[1]):.1f} CPUs"


def memory() -> str:
    """Physical memory, and the cgroup's limit where there is one: `16.0 GiB (limit 4.0 GiB)`."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    text = f"{total / 2**30:.1f} GiB"
    limit = _read("/sys/fs/cgroup/memory.max")
    return f"{text} (limit {int(limit) / 2**30:.1f} GiB)" if limit.isdigit() and int(limit) < total else text


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo, and the board's lines at its end."""
    fields: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
