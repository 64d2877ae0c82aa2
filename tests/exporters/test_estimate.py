"""The memory of a model before its export: against literal sums, against what export writes, and against what runtimes take."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner

from edgeattn.benchmarking.fresh import measure_fresh
from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.cli.estimate import parse_memory
from edgeattn.errors import UsageError
from edgeattn.exporters.estimate import Estimate, estimate
from edgeattn.runtimes.base import LoadOptions

WITHIN = 2.0
"""Factor by which the estimate may miss what a process really takes beyond the same runtime with next to no model: runtimes
pack weights a second time, do not read embeddings they need not, and grow their arenas in powers of two."""


@pytest.fixture(scope="module")
def tiny(tiny_source: str) -> Estimate:
    return estimate(tiny_source, sizes={"batch": 2, "sequence": 100})


def _stored(path: Path) -> int:
    """Bytes of a model's weights, by onnx alone."""
    tensors = onnx.load(path).graph.initializer
    return sum(math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)


def test_weights_are_those_that_export_writes(tiny: Estimate, tiny_bundle: Path) -> None:
    assert tiny.rows[0].weights == _stored(tiny_bundle / "canonical.onnx") == 36032
    # embedding 50 x 32; q 32 x 32, k and v 32 x 16, out 32 x 32, qkv 32 x 96, out 32 x 32, each with a bias
    assert tiny.parameters == 1600 + (1056 + 528 + 528 + 1056) + (3168 + 1056)


def test_attention_holds_what_its_default_form_says(tiny: Estimate) -> None:
    assert tiny.lowerings == {"grouped": 1, "contrib-gqa": 1}
    fp32 = tiny.rows[0]
    assert fp32.scratch == 2 * 4 * 100 * 100 * 4  # B H S T floats: every score
    assert tiny.at.endswith("of first")
    # beside them: two integer inputs and the mask, x, q, k, v and the context, and the hidden states
    values = 2 * 100 * (8 + 8 + 1) + 2 * 100 * 4 * (32 + 32 + 16 + 16 + 32)
    assert fp32.activations == fp32.scratch + values


def test_a_decoder_s_cache(tiny: Estimate) -> None:
    """Only the causal site of 2 heads of 16 is kept from later keys: a key and a value of each position."""
    assert tiny.rows[0].cache_per_token == 2 * (16 + 16) * 4
    assert tiny.rows[0].cache == 2 * 100 * 2 * (16 + 16) * 4
    assert tiny.rows[1].cache * 2 == tiny.rows[0].cache
    assert tiny.rows[0].peak == tiny.rows[0].weights + tiny.rows[0].activations + tiny.rows[0].cache


def test_precisions(tiny: Estimate) -> None:
    fp32, fp16, int8, int4 = tiny.rows
    assert [row.precision for row in tiny.rows] == ["fp32", "fp16", "int8", "int4"]
    assert fp16.activations - 2 * 100 * 17 == (fp32.activations - 2 * 100 * 17) / 2
    assert int8.activations == int4.activations == fp32.activations
    assert fp32.weights > fp16.weights > int8.weights > int4.weights


class Shared(torch.nn.Module):
    """One layer that is gone through three times, and refuses to be run on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor:
            raise AssertionError("an estimate runs nothing")
        for _ in range(3):
            x = torch.relu(self.layer(x))
        return x


def test_a_shared_layer_counts_once_and_nothing_is_run() -> None:
    module = Shared().train()
    found = estimate(module, {"x": torch.randn(2, 64)}, dynamic={"x": {0: "batch"}}, sizes={"batch": 5})
    assert found.parameters == 64 * 64
    assert [row.weights for row in found.rows] == [
        64 * 64 * 4,
        64 * 64 * 2,
        64 * 64 + 64 * 4,  # a scale for each column
        64 * 64 // 2 + 64 * 2 * 4 + 64,  # two blocks of 32 in each column, a scale and half a byte each
    ]
    assert [row.cache for row in found.rows] == [0] * 4
    assert module.training
    assert found.rows[0].activations == 5 * 64 * 4 * 3  # the input, the layer's operand and its result
    assert found.lowerings == {}


def test_an_onnx_file_is_estimated_as_what_it_was_made_from(tiny: Estimate, tiny_bundle: Path) -> None:
    found = estimate(str(tiny_bundle / "portable.onnx"), sizes={"batch": 2, "sequence": 100}, precisions=["fp32"])
    assert found.lowerings == tiny.lowerings
    assert found.parameters == tiny.parameters
    assert found.rows[0].cache == tiny.rows[0].cache
    assert found.rows[0].peak == pytest.approx(tiny.rows[0].peak, rel=0.2)


def test_sizes_default_to_those_of_bench(tiny_source: str) -> None:
    assert estimate(tiny_source, precisions=["int8"]).sizes == {"batch": 1, "sequence": 128}


def test_longer_sequences_need_more(tiny_source: str) -> None:
    needs = [estimate(tiny_source, sizes={"sequence": n}, precisions=["fp32"]).rows[0] for n in (10, 80, 160)]
    assert needs[0].activations < needs[1].activations < needs[2].activations
    assert needs[2].scratch == 4 * needs[1].scratch
    assert needs[0].weights == needs[2].weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"seq": 4}}, "unknown dimension 'seq'"),
        ({"sizes": {"sequence": 161}}, "--size sequence=161: expected a whole number, 1 to 160"),
        ({"precisions": ["int5"]}, "unknown precision 'int5'; did you mean 'int8' or 'int4'"),
        ({"runtime": "onnxruntim"}, "did you mean 'onnxruntime'"),
    ],
)
def test_bad_options(tiny_source: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        estimate(tiny_source, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 512_000_000), ("1.5g", 1_500_000_000), ("2GiB", 2 << 30), ("64Ki", 65536), ("100", 100), ("3MB", 3_000_000)],
)
def test_memory_as_people_write_it(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1M", "M", "12T", "1e9", "five"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size above 0 such as 512M"):
        parse_memory(text)


def test_the_command_says_whether_it_fits(tiny_source: str) -> None:
    runner = CliRunner()
    fits = runner.invoke(cli, ["estimate", tiny_source, "--memory", "1M", "--precision", "int8"])
    assert fits.exit_code == 0, fits.output
    assert "8,992 parameters; 2 attention sites: grouped x1, contrib-gqa x1" in fits.output
    assert "fits 1.0 MB" in fits.output
    assert " yes" in fits.output
    small = runner.invoke(cli, ["estimate", tiny_source, "--memory", "100K", "--size", "sequence=160", "--json"])
    assert small.exit_code == 1
    data = json.loads(small.stdout)
    assert data["fits"] is False
    assert [row["fits"] for row in data["rows"]] == [False] * 4
    assert data["sizes"] == {"batch": 1, "sequence": 160}
    assert runner.invoke(cli, ["estimate", tiny_source, "--memory", "lots"]).exit_code == 2


@pytest.mark.parametrize("window", [None, 16])
def test_a_cache_is_as_large_as_transformers(tmp_path: Path, window: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.MistralConfig(vocab_size=64, num_key_value_heads=2, sliding_window=window, **sizes)
    model = transformers.MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    cache = transformers.DynamicCache(config=config)
    model(torch.zeros(2, 100, dtype=torch.long), past_key_values=cache, use_cache=True)
    taken = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    (row,) = estimate(str(tmp_path), sizes={"batch": 2, "sequence": 100}, precisions=["fp32"]).rows
    position = 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, bytes
    assert row.cache_per_token == (0 if window else position)
    # a window keeps the position that is being read too; transformers adds it when it is
    assert row.cache == taken + (2 * position if window else 0)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_is_near_what_runtimes_take(minilm_bundle: Path, tiny_bundle: Path, runtime: str) -> None:
    def measured(path: Path, **sizes: int) -> float:
        fresh = measure_fresh(open_bundle(path), runtime, LoadOptions(), (f"{runtime}:cpu", "fp32"), sizes)
        assert fresh.peak_rss_mb is not None
        return fresh.peak_rss_mb

    empty = measured(tiny_bundle, batch=1, sequence=1)
    for batch, sequence in ((1, 128), (1, 512), (8, 128), (8, 512)):
        found = estimate("minilm", sizes={"batch": batch, "sequence": sequence}, precisions=["fp32"], runtime=f"{runtime}:cpu")
        taken = (measured(minilm_bundle, batch=batch, sequence=sequence) - empty) * 1e6
        assert taken / WITHIN < found.rows[0].peak < taken * WITHIN, (batch, sequence)
