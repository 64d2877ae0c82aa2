"""check, devices, and that a runtime never runs on another device than the one asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeattn.errors import RuntimeMissingError, UsageError
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session, default_threads

ModelPath = Callable[[str], Path]
Load = Callable[..., Session]


def test_check_answers(runtime: Runtime) -> None:
    availability = runtime.check()
    if availability.ok:
        assert availability.version[0].isdigit()
    else:
        assert availability.reason
        assert availability.how_to_install


def test_found_by_name(runtime: Runtime) -> None:
    assert runtime.name in registry.names()
    assert registry.get(runtime.name) is runtime


def test_devices_are_known(runtime: Runtime, device: str) -> None:
    assert device in runtime.devices()
    assert set(runtime.devices()) <= set(runtime.known_devices)
    assert len(set(runtime.known_devices)) == len(runtime.known_devices)


def test_target_is_parsed(runtime: Runtime, device: str) -> None:
    assert registry.parse_target(f"{runtime.name}:{device}") == (runtime, device)


def test_unknown_device(runtime: Runtime, device: str, model_path: ModelPath) -> None:
    with pytest.raises(UsageError, match=f"unknown device of runtime '{runtime.name}' '{device}x'; did you mean .*'{device}'"):
        runtime.load(model_path("softmax"), LoadOptions(device=f"{device}x"))


def test_absent_device(runtime: Runtime, absent_device: str, model_path: ModelPath) -> None:
    with pytest.raises(RuntimeMissingError, match=f"no device '{absent_device}' here") as caught:
        runtime.load(model_path("softmax"), LoadOptions(device=absent_device))
    assert f"it has: {', '.join(runtime.devices())}." in str(caught.value)


def test_effective_says_what_is_used(runtime: Runtime, device: str, load: Load) -> None:
    effective = load("softmax").effective
    assert (effective.runtime, effective.device) == (runtime.name, device)
    assert effective.version == runtime.check().version
    assert effective.precision
    assert effective.kv_precision
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in effective.details.items())
    assert f"{runtime.name} {effective.version} {device}, " in effective.summary()


def test_cpu_computes_in_fp32(runtime: Runtime, device: str, load: Load) -> None:
    if device != "cpu":
        pytest.skip("another device may have no fp32; what it has is on `effective`")
    effective = load("softmax").effective
    assert (effective.precision, effective.kv_precision) == ("fp32", "fp32")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_pinned(load: Load, threads: int) -> None:
    if threads > default_threads():
        pytest.skip(f"this process may use {default_threads()} CPU; a runtime may refuse to start more threads")
    assert load("softmax", threads=threads).effective.threads == threads


def test_threads_default_to_what_the_process_may_use(load: Load) -> None:
    assert 1 <= load("softmax").effective.threads <= default_threads()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_bad_thread_count(load: Load, threads: Any) -> None:
    with pytest.raises(UsageError, match=f"threads must be a whole number >= 1, got {threads}"):
        load("softmax", threads=threads)
