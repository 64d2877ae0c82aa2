"""Native kernels: the example's library is built for real, and the same file runs with it and without it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgeattn.errors import RuntimeRunError, UsageError
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions
from edgeattn.runtimes.onnxruntime import OnnxRuntime
from edgeattn.runtimes.openvino import OpenVINO
from edgeattn.runtimes.ort_custom import custom_operators

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "custom_operator"
FEEDS = {
    name: np.random.default_rng(len(name)).standard_normal(shape, dtype=np.float32)
    for name, shape in (("x", (2, 3, 8)), ("gate", (2, 3, 8)), ("weight", (8,)))
}


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """build(old, new): the path of the example's library, with `old` in its source replaced by `new`."""
    script = import_file(EXAMPLE / "build.py")
    headers, compiler = script.find_headers(), script.find_compiler()
    if headers is None or compiler is None:
        pytest.skip(script.HELP if headers is None else "no C++ compiler")

    def built(old: str = "", new: str = "") -> str:
        folder = tmp_path_factory.mktemp("library")
        text = (EXAMPLE / "gated_norm.cc").read_text()
        assert old in text
        (folder / "gated_norm.cc").write_text(text.replace(old, new) if old else text)
        script.build(folder / "gated_norm.cc", folder / "libgated_norm.so", headers, compiler)
        return str(folder / "libgated_norm.so")

    return built


@pytest.fixture(scope="module")
def library(build: Callable[..., str]) -> str:
    return build()


@pytest.fixture(scope="module")
def tripled(build: Callable[..., str]) -> str:
    """A kernel that computes something else."""
    return build("y[i] = x[i]", "y[i] = 3 * x[i]")


def write_model(path: Path, domain: str = "gating", body: bool = True) -> Path:
    """y = GatedRMSNorm(x, gate, weight) with eps 0.5, and its body as a function of the file."""
    values = {name: ["B", "S", 8] for name in ("x", "gate", "y")} | {"weight": [8]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()}
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    node = helper.make_node("GatedRMSNorm", ["x", "gate", "weight"], ["y"], domain=domain, eps=0.5)
    text = """<domain: "DOMAIN", opset_import: ["" : 18]> GatedRMSNorm <eps> (x, gate, weight) => (y) {
        axes = Constant<value_ints = [-1]>()  e = Constant<value_float: float = @eps>()
        squares = Mul(x, x)  mean = ReduceMean<keepdims = 1>(squares, axes)  shifted = Add(mean, e)  rms = Sqrt(shifted)
        normed = Div(x, rms)  scaled = Mul(normed, weight)  s = Sigmoid(gate)  silu = Mul(gate, s)  y = Mul(scaled, silu)
    }"""
    functions = [onnx.parser.parse_function(text.replace("DOMAIN", domain))] if body else []
    graph = helper.make_graph([node], "g", [infos[name] for name in FEEDS], [infos["y"]])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


def expected(model: Path) -> NDArray[Any]:
    """What the body means, by onnx itself."""
    (y,) = ReferenceEvaluator(onnx.load(model)).run(None, FEEDS)
    return np.asarray(y)


def run(model: Path, **options: Any) -> tuple[NDArray[Any], str]:
    with OnnxRuntime().load(model, LoadOptions(**options)) as session:
        return session.run(FEEDS)["y"], session.effective.details["custom operators"]


def test_the_same_file_with_and_without_the_library(model: Path, library: str, tripled: str) -> None:
    """A kernel of other maths shows: it is the kernel that ran, and without it the body, in one process and in any order."""
    truth = expected(model)
    for libraries, factor, how in (((), 1, "body"), ((tripled,), 3, "native"), ((library,), 1, "native"), ((), 1, "body")):
        y, said = run(model, custom_ops=libraries)
        assert said == f"gating::GatedRMSNorm {how}"
        np.testing.assert_allclose(y, factor * truth, rtol=1e-5, atol=1e-6)


def test_effective_is_what_the_runtime_profiled(model: Path, library: str, tmp_path: Path) -> None:
    """The runtime's own profile names the kernels that ran."""
    import onnxruntime

    for libraries, ran in (((), False), ((library,), True)):
        settings = onnxruntime.SessionOptions()
        settings.enable_profiling, settings.profile_file_prefix = True, str(tmp_path / "profile")
        for path in libraries:
            settings.register_custom_ops_library(path)
        session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        session.run(None, FEEDS)
        assert ('"op_name" : "GatedRMSNorm"' in Path(session.end_profiling()).read_text()) is ran
        assert run(model, custom_ops=libraries)[1].endswith("native") is ran


def test_a_kernel_alone_is_enough_outside_bundles(library: str, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare.onnx", body=False)
    y, said = run(bare, custom_ops=(library,))
    assert said == "gating::GatedRMSNorm native"
    np.testing.assert_allclose(y, expected(write_model(tmp_path / "whole.onnx")), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeRunError, match=r"failed to load bare\.onnx"):
        run(bare)


def test_a_library_without_a_use_is_an_error(library: str, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.onnx", domain="tests.other")
    with pytest.raises(
        UsageError, match=r"no kernel of .*libgated_norm\.so is used: other\.onnx defines tests\.other::GatedRMSNorm;"
    ):
        run(other, custom_ops=(library,))


def test_a_domain_may_begin_like_a_standard_one(tmp_path: Path) -> None:
    assert run(write_model(tmp_path / "m.onnx", domain="edgeattn_mine"))[1] == "edgeattn_mine::GatedRMSNorm body"


def test_where_onnxruntime_is_too_old_to_tell(model: Path) -> None:
    """Its sessions lack the call that newer ones have, and then nothing is claimed."""
    old = object()
    assert custom_operators(model, (), old) == {"custom operators": "gating::GatedRMSNorm body"}
    assert custom_operators(model, ("lib.so",), old) == {"custom operators": "gating::GatedRMSNorm native or body"}


def test_wrong_shapes_are_an_error_of_the_kernel(model: Path, library: str) -> None:
    """No crash, and no read past an array: the kernel's own message comes back."""
    with OnnxRuntime().load(model, LoadOptions(custom_ops=(library,))) as session, pytest.raises(RuntimeRunError) as caught:
        session._run({**FEEDS, "gate": FEEDS["gate"][:, :1]})
    assert "expected x and gate of one shape (..., N) and weight (N)" in str(caught.value)


def test_what_is_no_library(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no library '.*libmissing\.so'; give the path"):
        run(model, custom_ops=(str(tmp_path / "libmissing.so"),))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(RuntimeRunError, match=r"failed to load the library .*text\.so: .*has to export RegisterCustomOps"):
        run(model, custom_ops=(str(tmp_path / "text.so"),))


def test_a_bare_name_is_a_file_here(model: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a name that the system looks up in its own folders."""
    monkeypatch.chdir(Path(library).parent)
    assert run(model, custom_ops=("libgated_norm.so",))[1] == "gating::GatedRMSNorm native"


def converted(factor: float) -> Any:
    """The example's conversion for OpenVINO, times a factor."""
    import openvino.opset13 as ops
    from openvino.frontend.onnx import ConversionExtension

    convert = import_file(EXAMPLE / "with_openvino.py").convert
    return ConversionExtension(
        "GatedRMSNorm", "gating", lambda node: ops.multiply(convert(node)[0], np.float32(factor)).outputs()
    )


def test_openvino_extensions_convert_the_node(model: Path) -> None:
    """Each session has its own: an extension that stayed with the runtime would run in the next session too."""
    truth, runtime = expected(model), OpenVINO()
    for factor in (1, 2):
        with runtime.load(model, LoadOptions(extensions=(converted(factor),))) as session:
            assert session.effective.details["custom operators"] == "gating::GatedRMSNorm extension"
            np.testing.assert_allclose(session.run(FEEDS)["y"], factor * truth, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeRunError, match=r"defines gating::GatedRMSNorm as functions.*pass extensions=\[Conversion"):
        runtime.load(model)


def test_what_is_no_extension(model: Path) -> None:
    with pytest.raises(RuntimeRunError, match="openvino failed to add the extension 1"):
        OpenVINO().load(model, LoadOptions(extensions=(1,)))
    with pytest.raises(RuntimeRunError, match=r"openvino failed to add the extension 'libmissing\.so'"):
        OpenVINO().load(model, LoadOptions(extensions=("libmissing.so",)))


@pytest.mark.parametrize(
    ("runtime", "options", "name"),
    [
        ("openvino", {"custom_ops": ("a.so",)}, "custom_ops"),
        ("reference", {"custom_ops": ("a.so",)}, "custom_ops"),
        ("onnxruntime", {"extensions": (1,)}, "extensions"),
    ],
)
def test_options_of_another_runtime(runtime: str, options: dict[str, Any], name: str, model: Path) -> None:
    with pytest.raises(UsageError, match=f"runtime '{runtime}' takes no {name}; name the runtime that they are for"):
        registry.get(runtime).load(model, LoadOptions(**options))


@pytest.mark.slow
def test_the_example_from_top_to_bottom(build: Callable[..., str], tmp_path: Path) -> None:
    """Every command of its README, in an empty folder beside the examples, and a wrong kernel against the bundle it made."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = re.findall(r"^```bash\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    said = [_shell(line, tmp_path) for block in blocks for line in block.splitlines()]
    export, check, app, _, native_check, bench, native_app, openvino = said
    assert export.count("ok (") == 4
    assert "gating::GatedRMSNorm body" in check
    assert "gating::GatedRMSNorm native" in native_check
    assert "gating::GatedRMSNorm native" in bench
    assert app.splitlines()[0] == "gating::GatedRMSNorm body"
    assert native_app.splitlines() == ["gating::GatedRMSNorm native", app.splitlines()[1]]
    assert re.search(r"GatedRMSNorm extension largest difference from the body: (\d\.\de-0[6-9]|0\.0e\+00)", openvino)

    np.savez(tmp_path / "x.npz", x=np.ones((1, 2, 64), np.float32))
    ran = _shell("edgeattn run out/gated --input x.npz --custom-ops out/libgated_norm.so", tmp_path)
    assert "gating::GatedRMSNorm native, flavour onnxruntime:cpu" in ran
    wrong = _edgeattn(["check", "out/gated", "--custom-ops", build("y[i] = x[i]", "y[i] = 1.01f * x[i]")], tmp_path)
    assert (wrong.returncode, "onnxruntime:cpu (flavour onnxruntime:cpu, fp32): FAILED" in wrong.stdout) == (1, True)
    alone = _edgeattn(["check", "out/gated", "-r", "openvino", "--custom-ops", "out/libgated_norm.so"], tmp_path)
    assert alone.returncode == 2
    assert "none of openvino takes native libraries; add -r onnxruntime:cpu" in alone.stderr


def _shell(line: str, cwd: Path) -> str:
    words = line.replace("\n", " ").split()
    command = [sys.executable, *(["-m", *words] if words[0] == "edgeattn" else words[1:])]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _edgeattn(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgeattn", *words], cwd=cwd, capture_output=True, text=True, check=False)
