"""edgeattn.load: which flavour, which gates, and how little it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeattn
from edgeattn import bundle as bundles
from edgeattn.errors import BundleError, FeedError, GateError, RuntimeMissingError, RuntimeRunError, UsageError
from edgeattn.parity import compare_arrays

Make = dict[str, Callable[..., Any]]


@pytest.mark.parametrize(
    ("runtime", "flavour"),
    [("onnxruntime", "onnxruntime:cpu"), ("openvino", "openvino:cpu"), ("reference", "canonical")],
)
def test_the_flavour_made_for_the_runtime_gives_the_model_s_results(tiny: Path, make: Make, runtime: str, flavour: str) -> None:
    feeds = make["feeds"](2, 9)
    with edgeattn.load(tiny, runtime) as session:
        results = session.run(feeds)
        assert session.effective.details["flavour"] == flavour
        assert session.effective.runtime == runtime
        assert [info.name for info in session.inputs] == ["input_ids", "attention_mask"]
        assert session.inputs[0].dims == ("batch", "sequence")
        assert list(results) == [info.name for info in session.outputs] == ["last_hidden_state", "sentence_embedding"]
    expected = make["expected"](feeds)
    assert compare_arrays("e", results["sentence_embedding"], expected["sentence_embedding"], "normalized").passed


def test_portable_only_where_there_is_none_and_visible(tmp_path: Path, make: Make) -> None:
    bundle = make["bundle"](tmp_path / "b", targets=("onnxruntime:cpu", "portable"))
    assert edgeattn.load(bundle, "openvino").effective.details["flavour"] == "portable"
    assert edgeattn.load(bundle).effective.details["flavour"] == "onnxruntime:cpu"
    assert edgeattn.load(bundle, flavour="portable").effective.details["flavour"] == "portable"


def test_no_flavour_for_the_runtime(tmp_path: Path, make: Make) -> None:
    bundle = make["bundle"](tmp_path / "b", targets=("onnxruntime:cpu",))
    with pytest.raises(UsageError, match="no flavour for openvino:cpu"):
        edgeattn.load(bundle, "openvino")
    with pytest.raises(UsageError, match="did you mean 'onnxruntime:cpu'"):
        edgeattn.load(bundle, flavour="onnxruntime-cpu")


def test_a_flavour_that_failed_parity_is_refused(tiny: Path, make: Make) -> None:
    manifest = make["manifest"](tiny)
    parity = replace(manifest.flavours[0].parity, passed=False)
    make["reseal"](tiny, flavours=(replace(manifest.flavours[0], parity=parity), *manifest.flavours[1:]))
    with pytest.raises(GateError, match="did not pass parity"):
        edgeattn.load(tiny)
    edgeattn.load(tiny, "openvino").close()


def _moved(path: Path, make: Make, **environment: str) -> None:
    """As if the bundle had been exported on another machine."""
    manifest = make["manifest"](path)
    make["reseal"](path, flavours=tuple(replace(f, environment={**f.environment, **environment}) for f in manifest.flavours))


@pytest.mark.parametrize("change", [{"runtime_version": "0.1"}, {"cpu": "another"}])
def test_a_wrong_lowering_is_found_on_another_machine(tmp_path: Path, make: Make, change: dict[str, str]) -> None:
    bundle = make["bundle"](tmp_path / "b", probe="add")
    edgeattn.load(bundle).close()  # proven at export, on this machine: not asked again
    _moved(bundle, make, **change)
    for _ in range(2):  # a failure is not remembered as a proof
        with pytest.raises(GateError, match=r"'decomposed'.*onnxruntime.*masked keys"):
            edgeattn.load(bundle)


def test_a_right_lowering_is_proven_once(tiny: Path, make: Make, tmp_path: Path) -> None:
    _moved(tiny, make, cpu="another")
    edgeattn.load(tiny).close()
    notes = list((tmp_path / "cache" / "edgeattn" / "proofs").iterdir())
    assert len(notes) == 1
    edgeattn.load(tiny).close()
    edgeattn.load(tiny, "openvino").close()
    assert len(list(notes[0].parent.iterdir())) == 2  # another runtime has to be proven for itself


def test_another_probe_is_not_covered_by_an_old_proof(tiny: Path, make: Make) -> None:
    _moved(tiny, make, cpu="another")
    edgeattn.load(tiny).close()
    make["probe"](tiny / "probes" / "core.onnx", make["manifest"](tiny).probes[0].spec, "ignore")
    make["reseal"](tiny)
    with pytest.raises(GateError):
        edgeattn.load(tiny)


def test_a_probe_that_is_not_described_is_refused(tiny: Path, make: Make) -> None:
    _moved(tiny, make, cpu="another")
    make["reseal"](tiny, probes=())
    with pytest.raises(BundleError, match="probe"):
        edgeattn.load(tiny)


def test_a_size_over_the_limit_is_refused_before_the_runtime_sees_it(tiny: Path, make: Make) -> None:
    with edgeattn.load(tiny) as session:
        session.run(make["feeds"](1, 512))
        with pytest.raises(FeedError, match="at most 512"):
            session.run(make["feeds"](1, 513))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_bad_feeds_are_named(tiny: Path, make: Make, runtime: str) -> None:
    feeds = make["feeds"](2, 5)
    with edgeattn.load(tiny, runtime) as session:
        with pytest.raises(FeedError, match="did you mean 'input_ids'"):
            session.run({"input_id": feeds["input_ids"], "attention_mask": feeds["attention_mask"]})
        with pytest.raises(FeedError, match="int32"):
            session.run({**feeds, "input_ids": feeds["input_ids"].astype(np.int32)})
        with pytest.raises(FeedError, match="sequence is"):
            session.run({**feeds, "attention_mask": feeds["attention_mask"][:, :3]})
        with pytest.raises(FeedError, match="rank"):
            session.run({**feeds, "input_ids": feeds["input_ids"][0]})


def test_edited_weights_give_no_session(tiny: Path, make: Make) -> None:
    """They are hashed while the runtime loads them; the model itself is fine, so only the hash can tell."""
    make["scale_weight"](tiny, 10)
    with pytest.raises(BundleError, match=r"weights-fp32\.bin does not match its SHA-256"):
        edgeattn.load(tiny)


def test_the_edit_is_told_even_where_the_runtime_complains_too(tiny: Path, make: Make) -> None:
    (tiny / "model.onnx").write_bytes(b"not a model")
    make["reseal"](tiny)
    with pytest.raises(RuntimeRunError):
        edgeattn.load(tiny)
    make["scale_weight"](tiny, 10)
    with pytest.raises(BundleError, match="SHA-256"):
        edgeattn.load(tiny)


@pytest.mark.parametrize("name", ["model.onnx", "golden/b1-s7.safetensors", "probes/core.onnx"])
def test_everything_but_weights_is_verified_before_the_runtime_sees_it(tiny: Path, name: str) -> None:
    data = bytearray((tiny / name).read_bytes())
    data[-1] ^= 1
    (tiny / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=name), bundles.opening(tiny):
        pytest.fail("the block ran")


def test_a_closed_session_does_not_run(tiny: Path, make: Make) -> None:
    session = edgeattn.load(tiny)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(make["feeds"](1, 3))


def test_a_manifest_that_names_another_output_is_refused(tiny: Path, make: Make) -> None:
    outputs = make["manifest"](tiny).outputs
    make["reseal"](tiny, outputs=(replace(outputs[0], name="logits"), *outputs[1:]))
    with pytest.raises(BundleError, match="logits"):
        edgeattn.load(tiny)


def test_missing_and_unknown_devices(tiny: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="it has: cpu"):
        edgeattn.load(tiny, device="cuda")
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        edgeattn.load(tiny, device="cuba")


def test_threads_are_what_was_asked_for(tiny: Path) -> None:
    assert edgeattn.load(tiny, threads=1).effective.threads == 1


def test_a_packed_bundle_loads_as_the_folder_does(tiny: Path, make: Make, tmp_path: Path) -> None:
    bundles.pack(bundles.open_bundle(tiny), tmp_path / "tiny.edgeattn")
    feeds = make["feeds"](1, 4)
    with edgeattn.load(tmp_path / "tiny.edgeattn") as packed, edgeattn.load(tiny) as folder:
        np.testing.assert_array_equal(packed.run(feeds)["last_hidden_state"], folder.run(feeds)["last_hidden_state"])


_HEAVY = {"torch", "onnx", "click", "rich", "transformers", "tokenizers", "openvino"}


def test_loading_and_running_imports_nothing_heavy(tiny: Path) -> None:
    code = (
        "import sys, numpy as np, edgeattn\n"
        f"s = edgeattn.load({str(tiny)!r})\n"
        "s.run({n.name: np.ones((1, 3), n.dtype) for n in s.inputs})\n"
        f"print(sorted({_HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_edgeattn_is_quick() -> None:
    """Over numpy's own import; the best of three, since other processes share the machine."""
    code = "import time, numpy; t = time.perf_counter(); import edgeattn; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.15


def test_public_names_are_functions_whatever_was_imported_first() -> None:
    code = (
        "import edgeattn, edgeattn.checking, edgeattn.comparing, edgeattn.benchmarking.benchmark, edgeattn.loading\n"
        "assert all(callable(getattr(edgeattn, name)) for name in ('load', 'check', 'compare', 'bench'))\n"
        "assert edgeattn.__version__ and 'load' in dir(edgeattn)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'laod'"):
        edgeattn.laod  # noqa: B018
