"""What any Runtime is held to: every test of this folder runs on every runtime and every device present.

    pytest tests/contract                                    everything that is installed here
    pytest tests/contract --runtime onnxruntime --device cuda    one runtime, one device, which then must be there
    pytest tests/contract --runtime my_runtime               a plug-in, once it is installed

A runtime brings no test of its own, only lines in `SKIPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import EdgeAttnError
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions, Runtime, Session

SKIPS: dict[tuple[str, str], str] = {
    ("reference", "test_threads_are_pinned[2]"): "the reference evaluator walks the graph in one thread, and says so",
}
"""(runtime, test) -> why the runtime cannot keep this part of the contract. Strict: a line that is not needed fails."""


_FAILURES = (AssertionError, EdgeAttnError, pytest.fail.Exception)
_NONE = SimpleNamespace(params={})


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contract", "the runtime contract")
    group.addoption("--runtime", action="append", default=[], help="only this runtime (repeat for more)")
    group.addoption("--skip", action="append", default=[], help="'test: reason', for a plug-in; fails where not needed")
    group.addoption("--device", default=None, help="only this device; the run fails where it is missing")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "absent_device" in metafunc.fixturenames:
        metafunc.parametrize(("runtime", "absent_device"), _absent(metafunc.config))
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize(("runtime", "device"), _present(metafunc.config))
    elif "runtime" in metafunc.fixturenames:
        metafunc.parametrize("runtime", [pytest.param(r, id=r.name) for r in _runtimes(metafunc.config)])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Turn the skips into strict expected failures, and refuse one that names no test."""
    here = Path(__file__).parent
    skips = dict(SKIPS)
    for line in config.getoption("--skip", []):
        test, _, reason = line.partition(":")
        skips |= {(name, test): reason.strip() for name in config.getoption("--runtime")}
    unused = {key for key in skips if key[0] in {runtime.name for runtime in _runtimes(config) if runtime.check().ok}}
    contract = [item for item in items if item.path.parent == here and "runtime" in getattr(item, "callspec", _NONE).params]
    for item in contract:
        key = (item.callspec.params["runtime"].name, _short_name(item))  # type: ignore[attr-defined]
        unused.discard(key)
        if key in skips:
            item.add_marker(pytest.mark.xfail(reason=skips[key], strict=True, raises=_FAILURES))
    complete = {item.path for item in contract} >= set(here.glob("test_*.py"))
    if unused and complete:
        raise pytest.UsageError(f"a skip names no test of the contract: {sorted(unused)}")


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a model of `_MODELS`, written once."""
    root = tmp_path_factory.mktemp("models")

    def path(name: str) -> Path:
        file = root / f"{name}.onnx"
        if not file.exists():
            onnx.save(_MODELS[name](), file, save_as_external_data=name == "external", location="w.bin", size_threshold=0)
        return file

    return path


@pytest.fixture
def load(runtime: Runtime, device: str, model_path: Callable[[str], Path]) -> Iterator[Callable[..., Session]]:
    """load(name or path, **options): a session on the device under test, closed after the test."""
    sessions: list[Session] = []

    def opened(model: str | Path, **options: Any) -> Session:
        path = model_path(model) if isinstance(model, str) else model
        sessions.append(runtime.load(path, LoadOptions(device=device, **options)))
        return sessions[-1]

    yield opened
    for session in sessions:
        session.close()


def _short_name(item: pytest.Item) -> str:
    """`test_threads_are_pinned[reference-cpu-2]` -> `test_threads_are_pinned[2]`."""
    call = item.callspec  # type: ignore[attr-defined]
    rest = call.id.removeprefix(f"{call.params['runtime'].name}-{call.params.get('device', '')}").lstrip("-")
    return f"{item.originalname}[{rest}]" if rest else item.originalname  # type: ignore[attr-defined]


def _runtimes(config: pytest.Config) -> list[Runtime]:
    try:
        return [registry.get(name) for name in config.getoption("--runtime", []) or registry.names()]
    except EdgeAttnError as error:
        raise pytest.UsageError(str(error)) from error


def _present(config: pytest.Config) -> list[Any]:
    """Every (runtime, device) to test; a runtime that is not installed stands there once, skipped with its reason."""
    asked = config.getoption("--device", None)
    found: list[Any] = []
    for runtime in _runtimes(config):
        availability = runtime.check()
        if not availability.ok:
            reason = f"{runtime.name}: {availability.reason}; {availability.how_to_install}"
            found.append(pytest.param(runtime, "cpu", id=f"{runtime.name}-none", marks=pytest.mark.skip(reason=reason)))
            continue
        if asked is not None:
            _require(runtime, asked)
        devices = runtime.devices() if asked is None else (asked,)
        found += [pytest.param(runtime, device, id=f"{runtime.name}-{device}") for device in devices]
    return found


def _require(runtime: Runtime, device: str) -> None:
    try:
        runtime.require(device)
    except EdgeAttnError as error:
        raise pytest.UsageError(str(error)) from error


def _absent(config: pytest.Config) -> list[Any]:
    usable = [runtime for runtime in _runtimes(config) if runtime.check().ok]
    pairs = [(runtime, device) for runtime in usable for device in runtime.known_devices if device not in runtime.devices()]
    if not pairs:
        reason = "every device that these runtimes know is present here"
        return [pytest.param(_runtimes(config)[0], "", id="none", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(runtime, device, id=f"{runtime.name}-{device}") for runtime, device in pairs]


_Values = dict[str, tuple[str, list[Any]]]
"""name -> (type of TensorProto, dims)."""

WEIGHT = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
BIAS = np.linspace(0, 1, 8, dtype=np.float32)
TABLE = np.linspace(-2, 2, 80, dtype=np.float32).reshape(10, 8)


@pytest.fixture(scope="session")
def constants() -> dict[str, Any]:
    """The weights of the models below."""
    return {"weight": WEIGHT, "bias": BIAS, "table": TABLE}


def _softmax() -> onnx.ModelProto:
    """x (B, S, 8) -> y (B, S, 8) = softmax(x W + b)."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]
    return _model(nodes, {"x": ("FLOAT", ["B", "S", 8])}, {"y": ("FLOAT", ["B", "S", 8])}, {"weight": WEIGHT, "bias": BIAS})


def _ids() -> onnx.ModelProto:
    """ids, mask (B, S) int64 -> hidden (B, S, 8) = table[ids] * mask."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["hidden"]),
    ]
    inputs = {"ids": ("INT64", ["B", "S"]), "mask": ("INT64", ["B", "S"])}
    return _model(nodes, inputs, {"hidden": ("FLOAT", ["B", "S", 8])}, {"table": TABLE, "last": np.array([-1])})


def _outputs() -> onnx.ModelProto:
    """Outputs of different types, neither in alphabetical order nor in that of their nodes."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["best"], axis=-1, keepdims=0),
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Mul", ["x", "x"], ["square"]),
    ]
    outputs: _Values = {"twice": ("FLOAT", ["B", 8]), "best": ("INT64", ["B"]), "square": ("FLOAT", ["B", 8])}
    return _model(nodes, {"x": ("FLOAT", ["B", 8])}, outputs, {})


def _passthrough() -> onnx.ModelProto:
    """Outputs that are an input, a view of it, and a weight: where memory could be shared with the caller or the model."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["x"], ["again"]),
        helper.make_node("Unsqueeze", ["x", "first"], ["view"]),
        helper.make_node("Identity", ["bias"], ["constant"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "scale"], ["scaled"]),
    ]
    inputs: _Values = {"x": ("FLOAT", ["B", 8]), "scale": ("FLOAT", [])}
    outputs: _Values = {n: ("FLOAT", ["B", 8]) for n in ("same", "again", "scaled")}
    outputs |= {"constant": ("FLOAT", [8]), "view": ("FLOAT", [1, "B", 8])}
    return _model(nodes, inputs, outputs, {"bias": BIAS, "first": np.array([0])})


def _dtypes() -> onnx.ModelProto:
    """A bool, an int32 and a float16 input; the last with an unnamed dimension."""
    nodes = [
        helper.make_node("Not", ["flag"], ["inverse"]),
        helper.make_node("Add", ["count", "count"], ["double"]),
        helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
    ]
    inputs: _Values = {"flag": ("BOOL", ["B"]), "count": ("INT32", ["B"]), "half": ("FLOAT16", ["B", None])}
    return _model(nodes, inputs, {"inverse": ("BOOL", ["B"]), "double": ("INT32", ["B"]), "single": ("FLOAT", ["B", None])}, {})


def _canonical() -> onnx.ModelProto:
    """One node of domain `edgeattn`, its body a function of the model: x (B, 8) -> y (B, 8) = 2 x."""
    body = helper.make_function(
        "edgeattn", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    node = helper.make_node("Double", ["x"], ["y"], domain="edgeattn")
    model = _model([node], {"x": ("FLOAT", ["B", 8])}, {"y": ("FLOAT", ["B", 8])}, {}, "edgeattn")
    model.functions.append(body)
    return model


def _unknown_operator() -> onnx.ModelProto:
    node = helper.make_node("Nothing", ["x"], ["y"], domain="nowhere")
    return _model([node], {"x": ("FLOAT", ["B", 8])}, {"y": ("FLOAT", ["B", 8])}, {}, "nowhere")


_MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "softmax": _softmax,
    "external": _softmax,
    "ids": _ids,
    "outputs": _outputs,
    "passthrough": _passthrough,
    "dtypes": _dtypes,
    "canonical": _canonical,
    "unknown_operator": _unknown_operator,
}


def _model(nodes: list[Any], inputs: _Values, outputs: _Values, weights: dict[str, Any], *domains: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "contract",
        [_value(name, *kind) for name, kind in inputs.items()],
        [_value(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name: str, dtype: str, dims: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, getattr(TensorProto, dtype), dims)
