"""Fixed sizes: literal dimensions throughout, one file for each choice, feeds of any smaller size padded up and cut back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import edgeattn
from edgeattn import bundle as bundles
from edgeattn import manifest as manifests
from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.errors import BundleError, FeedError, GateError
from edgeattn.exporters.estimate import estimate
from edgeattn.exporters.export import export
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.exporters.sources.zoo import DEMO_COMMAND, MODELS
from edgeattn.manifest import Flavour
from edgeattn.text import encode

SMALL, LARGE = {"batch": 1, "sequence": 32}, {"batch": 2, "sequence": 96}
RUNTIMES = ("onnxruntime", "openvino", "reference")


@pytest.fixture(scope="module")
def fixed(tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model at two choices of sizes, the larger one first."""
    output = tmp_path_factory.mktemp("fixed") / "tiny"
    edgeattn.export(tiny_source, output=output, runtimes=["onnxruntime:cpu", "openvino:cpu"], static_shapes=[LARGE, SMALL])
    return output


def test_a_flavour_for_each_target_and_choice(fixed: Path) -> None:
    manifest = open_bundle(fixed).manifest
    targets = ["onnxruntime:cpu", "openvino:cpu", "portable", "canonical"]
    assert [(f.target, f.sizes) for f in manifest.flavours] == [(t, s) for t in targets for s in (LARGE, SMALL)]
    assert [f.file for f in manifest.flavours][:2] == [
        "onnxruntime-cpu-batch2-sequence96.onnx",
        "onnxruntime-cpu-batch1-sequence32.onnx",
    ]
    assert manifest.pads == ("batch", "sequence")
    for flavour in manifest.flavours:
        assert flavour.parity is not None
        assert flavour.parity.passed
        assert flavour.parity.cases >= 5


def test_no_symbol_and_no_arithmetic_on_sizes_is_left(fixed: Path) -> None:
    for flavour in open_bundle(fixed).manifest.flavours:
        model = onnx.load(fixed / flavour.file, load_external_data=False)
        graph = model.graph
        assert {node.op_type for node in graph.node} & {"Shape", "Range", "ConstantOfShape", "Size"} == set()
        shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info, *graph.output)}
        values = [name for node in graph.node for name in node.output if name]
        assert values
        for name in [*values, *(value.name for value in graph.input)]:
            assert name in shapes, (flavour.label, name)
            assert all(dim.HasField("dim_value") for dim in shapes[name]), (flavour.label, name)
        assert [dim.dim_value for dim in shapes["input_ids"]] == [flavour.sizes["batch"], flavour.sizes["sequence"]]


def test_all_files_share_one_weight_file(fixed: Path) -> None:
    assert [path.name for path in fixed.glob("*.bin")] == ["weights-fp32.bin"]
    for path in fixed.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for t in outside for entry in t.external_data if entry.key == "location"} == {"weights-fp32.bin"}
        assert {t.name for t in outside} >= {"embed.weight", "qkv.weight.T", "out.weight.T"}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("batch", "sequence", "bucket"),
    [(1, 1, SMALL), (1, 20, SMALL), (1, 32, SMALL), (1, 33, LARGE), (2, 5, LARGE), (2, 96, LARGE)],
)
def test_feeds_run_at_the_smallest_sizes_that_hold_them(
    fixed: Path, tiny_source: str, runtime: str, batch: int, sequence: int, bucket: dict[str, int]
) -> None:
    source = resolve(tiny_source)
    inputs = source.sample({"batch": batch, "sequence": sequence}, torch.Generator().manual_seed(sequence))
    with torch.inference_mode():
        expected = source.module(**inputs)["hidden"].numpy()
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    with edgeattn.load(fixed, runtime) as session:
        assert session.bucket(feeds) == bucket
        got = session.run(feeds)["hidden"]
    assert got.shape == (batch, sequence, 32)
    valid = feeds["attention_mask"].astype(bool)
    np.testing.assert_allclose(got[valid], expected[valid], atol=2e-5)


def test_feeds_beyond_every_choice_are_told_the_sizes(fixed: Path) -> None:
    ids = np.zeros((2, 97), dtype=np.int64)
    with (
        edgeattn.load(fixed) as session,
        pytest.raises(FeedError, match=r"got batch=2,sequence=97; .*anything up to .*batch=2,sequence=96; batch=1,sequence=32"),
    ):
        session.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_check_proves_every_choice_and_what_is_padded_up_to_it(fixed: Path) -> None:
    report = edgeattn.check(fixed)
    assert report.passed
    assert [target.fixed for target in report.targets] == [(LARGE, SMALL)] * 2
    sizes = [tuple(case.sizes.values()) for case in report.targets[0].cases]
    assert sizes.count((2, 96)) == sizes.count((1, 32)) == 3
    assert {(1, 64), (1, 95), (1, 22), (1, 31), (1, 1)} <= set(sizes)


def test_a_lost_mask_fails_the_gate_of_what_was_padded_up(fixed: Path) -> None:
    """The padded cases have teeth: reading padding as real changes their results by far more than the tolerance."""
    ids = np.arange(20, dtype=np.int64).reshape(1, 20)
    mask = np.ones_like(ids)
    with edgeattn.load(fixed) as session:
        right = session.run({"input_ids": ids, "attention_mask": mask})["hidden"]
        padded = {"input_ids": np.pad(ids, [(0, 0), (0, 12)]), "attention_mask": np.ones((1, 32), dtype=np.int64)}
        wrong = session.run(padded)["hidden"][:, :20]
    assert np.abs(right - wrong).max() > 100 * 2e-5


def test_commands_show_and_use_the_sizes(fixed: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    inspected = runner.invoke(cli, ["inspect", str(fixed)])
    assert "fixed sizes: batch=2,sequence=96; batch=1,sequence=32; feeds are padded up to them in batch and sequence" in (
        inspected.output
    )
    assert "openvino:cpu batch=1,sequence=32" in inspected.output
    ids = np.ones((1, 7), dtype=np.int64)
    np.savez(tmp_path / "f.npz", input_ids=ids, attention_mask=ids)
    ran = runner.invoke(cli, ["run", str(fixed), "--input", str(tmp_path / "f.npz")])
    assert "flavour onnxruntime:cpu, run at batch 1, sequence 32" in ran.output
    assert "fixed sizes: batch 2, sequence 96; batch 1, sequence 32" in runner.invoke(cli, ["check", str(fixed)]).output
    timed = runner.invoke(
        cli, ["bench", str(fixed), "-r", "onnxruntime", "--repeats", "1", "--warmup", "0", "--size", "sequence=40"]
    )
    assert timed.exit_code == 0, timed.output
    assert "batch 2, sequence 40" in timed.output
    assert "the smallest that holds the feeds of batch 2, sequence 96; batch 1, sequence 32" in timed.output
    too_long = runner.invoke(cli, ["bench", str(fixed), "-r", "onnxruntime", "--size", "sequence=97"])
    assert too_long.exit_code == 2
    assert "batch=2,sequence=96; batch=1,sequence=32" in too_long.output


class Open(torch.nn.Module):
    """Attention without any mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
        return result


class Leaking(torch.nn.Module):
    """A padding mask that the mean at the end forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        q = self.embed(input_ids)[:, None]
        mask = attention_mask.bool()[:, None, None, :]
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)[:, 0].mean(dim=1)


def test_without_a_mask_sizes_must_be_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = export(
        Open(),
        {"x": torch.randn(2, 5, 8)},
        dynamic={"x": {0: "batch", 1: "sequence"}},
        output=tmp_path / "open",
        static_shapes=[{"batch": 1, "sequence": 9}, {"sequence": 1, "batch": 3}],
    )
    assert report.passed
    assert open_bundle(tmp_path / "open").manifest.pads == ()
    with edgeattn.load(tmp_path / "open") as session:
        assert session.run({"x": np.ones((3, 1, 8), np.float32)})["output"].shape == (3, 1, 8)
        with pytest.raises(FeedError, match=r"exactly one of these.*batch=1,sequence=9; batch=3,sequence=1"):
            session.run({"x": np.ones((1, 8, 8), np.float32)})


def test_where_padding_changes_results_sizes_must_be_exact(tmp_path: Path) -> None:
    ids = torch.arange(10).reshape(2, 5)
    said: list[str] = []
    report = export(
        Leaking(),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic={name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")},
        output=tmp_path / "leaking",
        static_shapes=[{"batch": 2, "sequence": 12}],
        progress=said.append,
    )
    assert report.passed
    assert open_bundle(tmp_path / "leaking").manifest.pads == ()
    assert any("output 'output' changes when batch=1,sequence=8 is padded" in line for line in said)


def test_a_size_that_follows_from_others(tmp_path: Path) -> None:
    """A decoder with its cache as inputs: its mask is as long as what is new and what is cached together."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=40, max_position_embeddings=64, **sizes)
    transformers.LlamaForCausalLM(config).eval().save_pretrained(tmp_path / "model")
    step = {"batch": 1, "sequence": 1, "past": 31, "kept": 1}
    report = export(str(tmp_path / "model"), output=tmp_path / "out", cache=True, static_shapes=[step])
    assert report.passed
    assert [row.flavour.sizes for row in report.flavours] == [step] * 3
    with edgeattn.load(tmp_path / "out") as session:
        lengths = dict(step)
        shapes = {
            info.name: [lengths.get(dim, 32) if isinstance(dim, str) else dim for dim in info.dims] for info in session.inputs
        }
        feeds = {info.name: np.ones(shapes[info.name], info.dtype) for info in session.inputs}
        feeds["logits_to_keep"][:] = 0
        assert feeds["attention_mask"].shape == (1, 32)
        assert session.run(feeds)["logits"].shape == (1, 1, 40)
    found = estimate(str(tmp_path / "model"), sizes={"batch": 1, "sequence": 32}, precisions=["fp32"])
    assert found.rows[0].cache == 32 * 2 * 16 * 4


def test_lowerings_are_chosen_for_the_length(tmp_path: Path) -> None:
    report = export(
        "sliding_window",
        output=tmp_path / "window",
        static_shapes=[{"batch": 1, "sequence": 64}, {"batch": 1, "sequence": 600}],
    )
    assert report.passed
    chosen = [list(row.flavour.lowerings.values()) for row in report.flavours if row.flavour.target == "onnxruntime:cpu"]
    assert chosen == [["grouped"], ["blocked"]]


def test_probes_have_the_form_s_own_sizes(fixed: Path) -> None:
    manifest = open_bundle(fixed).manifest
    used = {probe.file: probe for probe in manifest.probes}
    for flavour in manifest.flavours:
        for name in flavour.probes:
            length = flavour.sizes["sequence"]
            assert used[name].size == (flavour.sizes["batch"], length, length)
            dims = onnx.load(fixed / name).graph.input[0].type.tensor_type.shape.dim
            assert (dims[0].dim_value, dims[2].dim_value) == (flavour.sizes["batch"], length)


@pytest.mark.parametrize("sizes", [{"batch": 2, "sequence": 97}, {"batch": 2}, {}])
def test_sizes_that_are_not_the_file_s_are_refused(fixed: Path, tmp_path: Path, sizes: dict[str, int]) -> None:
    """An edited manifest must not make feeds grow to sizes that the file does not have."""
    edited = Path(shutil.copytree(fixed, tmp_path / "edited"))
    manifest = open_bundle(edited).manifest
    bundles.seal(edited, replace(manifest, flavours=(replace(manifest.flavours[0], sizes=sizes), *manifest.flavours[1:])))
    with pytest.raises(BundleError, match=r"onnxruntime-cpu-batch2-sequence96\.onnx takes 'input_ids' of shape"):
        edgeattn.load(edited)


@pytest.mark.parametrize("size", [(1, 10**9, 10**9), (1, 32), (0, 32, 32)])
def test_a_probe_of_impossible_size_is_refused(fixed: Path, tmp_path: Path, size: tuple[int, ...]) -> None:
    """Before anything of that size is made."""
    edited = Path(shutil.copytree(fixed, tmp_path / "edited"))
    manifest = open_bundle(edited).manifest
    elsewhere = tuple(replace(flavour, environment={}) for flavour in manifest.flavours)
    bundles.seal(
        edited, replace(manifest, flavours=elsewhere, probes=tuple(replace(probe, size=size) for probe in manifest.probes))
    )
    with pytest.raises(BundleError, match="expected batch, queries and keys of at most 2, 1024 and 1024"):
        edgeattn.load(edited)


def test_elsewhere_the_forms_are_proven_again_at_their_sizes(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    moved = Path(shutil.copytree(fixed, tmp_path / "moved"))
    manifest = open_bundle(moved).manifest
    bundles.seal(moved, replace(manifest, flavours=tuple(replace(flavour, environment={}) for flavour in manifest.flavours)))
    edgeattn.load(moved).close()
    probe = open_bundle(moved).manifest.flavours[0].probes[0]
    other = next(
        p.file for p in manifest.probes if p.file != probe and p.file.split("-Attention")[1] != probe.split("-Attention")[1]
    )
    shutil.copyfile(moved / other, moved / probe)
    bundles.seal(moved, manifests.loads((moved / "manifest.json").read_text()))
    with pytest.raises(GateError, match="does not compute attention rightly"):
        edgeattn.load(moved)


def test_a_dynamic_bundle_says_nothing_of_sizes(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "manifest.json").read_text()
    assert '"pads"' not in text
    assert '"size": [' not in text
    flavours: tuple[Flavour, ...] = open_bundle(tiny_bundle).manifest.flavours
    assert all(flavour.sizes == {} and flavour.label == flavour.target for flavour in flavours)
    with edgeattn.load(tiny_bundle) as session:
        assert session.buckets == ()


@pytest.mark.slow
def test_text_is_cut_where_the_longest_size_ends(tmp_path: Path) -> None:
    if MODELS["minilm"].path() is None:
        pytest.skip(f"the demo model is not installed; {DEMO_COMMAND}")
    shapes = [{"batch": 2, "sequence": 8}, {"batch": 2, "sequence": 16}]
    export("minilm", output=tmp_path / "minilm", static_shapes=shapes)
    bundle = open_bundle(tmp_path / "minilm")
    assert bundle.manifest.tokenizer["max_length"] == 16
    assert edgeattn.check(bundle).passed
    with edgeattn.load(bundle) as session:
        for text, bucket in (("A cat sits.", shapes[0]), ("A cat sits outside and looks at birds. " * 9, shapes[1])):
            feeds = encode(bundle, [text])
            assert session.bucket(feeds) == bucket
            assert session.run(feeds)["sentence_embedding"].shape == (1, 384)
