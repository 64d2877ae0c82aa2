"""OpenVINO keeps the cache: fused with attention, its numbers stored once, and nothing foreign in its file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from edgeattn.bundle import open_bundle, seal
from edgeattn.decoding import DecoderSession, load_decoder
from edgeattn.errors import BundleError, RuntimeRunError
from edgeattn.openvino_ir import read_ir
from edgeattn.probe import run_probe
from tests.edgeattn.decoding.small import Small, one_token

FILE = "openvino-cpu.xml"


@pytest.fixture
def session(small: Small) -> Iterator[DecoderSession]:
    with load_decoder(small.bundle, "openvino") as loaded:
        yield loaded


def _edited(small: Small, folder: Path, old: str, new: str) -> Path:
    """The bundle with another OpenVINO file, under its right hash."""
    shutil.copytree(small.bundle, folder / "edited")
    path = folder / "edited" / FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    seal(path.parent, open_bundle(small.bundle).manifest)
    return path.parent


def _chain(session: DecoderSession) -> Any:
    return session._chain


def test_the_flavour_says_so(small: Small) -> None:
    flavour = open_bundle(small.bundle).manifest.flavour("openvino:cpu")
    assert flavour is not None
    assert (flavour.file, flavour.cache) == (FILE, "stateful")
    assert set(flavour.lowerings.values()) == {"stateful-sdpa"}
    assert [Path(probe).suffix for probe in flavour.probes] == [".xml"]


def test_attention_is_fused_with_its_cache(session: DecoderSession, small: Small) -> None:
    inner: Any = session.session
    nodes = inner._inner[0]._compiled.get_runtime_model().get_ops()
    attention = [node for node in nodes if _kind(node) == "ScaledDotProductAttention"]
    read = [[_kind(port.get_source_output().get_node()) for port in node.inputs()].count("MemoryInput") for node in attention]
    assert read == [2] * small.model.config.num_hidden_layers


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].value)


def test_the_cache_is_kept_in_fp32(session: DecoderSession) -> None:
    assert session.session.effective.kv_precision == "fp32"


def test_weights_are_stored_once(small: Small) -> None:
    """Every large constant lies where another flavour has it; what is appended is small."""
    layers = ElementTree.parse(small.bundle / FILE).iterfind(".//layer[@type='Const']/data")
    places = [(int(data.attrib["offset"]), int(data.attrib["size"])) for data in layers]
    parameters = sum(parameter.nbytes for parameter in small.model.parameters())
    assert sum(size for _, size in places if size > 1024) >= parameters - 1024 * len(list(small.model.parameters()))
    assert (small.bundle / "weights-fp32.bin").stat().st_size < parameters + 8192
    assert not list(small.bundle.glob("openvino*.bin"))


def test_a_layer_from_a_library_is_refused(small: Small, tmp_path: Path) -> None:
    bundle = _edited(small, tmp_path, 'type="Transpose" version="opset1"', 'type="Transpose" version="extension"')
    with pytest.raises(BundleError, match="extension::Transpose"):
        open_bundle(bundle)


def test_numbers_from_a_file_that_is_not_listed(small: Small, tmp_path: Path) -> None:
    bundle = _edited(small, tmp_path, "weights-fp32.bin", "weights-none.bin")
    with pytest.raises(BundleError, match=r"weights-none\.bin, not listed"):
        open_bundle(bundle)


def test_its_probe_runs_from_the_bundle(small: Small) -> None:
    """As on another machine: the model of one site, with its numbers beside it."""
    bundle = open_bundle(small.bundle)
    flavour = bundle.manifest.flavour("openvino:cpu")
    assert flavour is not None
    probe = next(probe for probe in bundle.manifest.probes if probe.file == flavour.probes[0])
    result = run_probe("openvino", "cpu", bundle.file(probe.file), probe.spec, cached=probe.cached)
    assert result.passed, result.reason


def test_an_edited_file(small: Small, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(small.bundle, bundle)
    with (bundle / FILE).open("a") as file:
        file.write("\n")
    with pytest.raises(BundleError, match="bytes"):
        open_bundle(bundle)


def test_present_is_read_back(small: Small) -> None:
    """As any session: the past in, the present out, one after the other and at any length."""
    with load_decoder(small.bundle, "openvino") as ours, load_decoder(small.bundle, "onnxruntime") as other:
        note = read_ir(small.bundle / FILE).note()
        assert note is not None
        rng = np.random.default_rng(0)
        for batch, past, new in ((2, 3, 5), (1, 0, 4), (3, 9, 1), (1, 0, 1)):
            feeds: dict[str, Any] = {
                "input_ids": rng.integers(0, 50, (batch, new)),
                "attention_mask": np.ones((batch, past + new), dtype=np.int64),
                "position_ids": np.tile(np.arange(past, past + new), (batch, 1)),
                "logits_to_keep": np.arange(new),
            }
            feeds |= {name: rng.standard_normal((batch, 2, past, 8)).astype(np.float32) for name in note.variables}
            got, expected = ours.session.run(feeds), other.session.run(feeds)
            assert set(got) == set(expected)
            for name, array in expected.items():
                np.testing.assert_allclose(got[name], array, rtol=0, atol=2e-4)


def test_a_chain_can_forget_its_first_positions(session: DecoderSession, small: Small) -> None:
    """With the last WINDOW positions alone, a window sees what it saw before."""
    tokens = torch.randint(100, (2, 21), generator=torch.Generator().manual_seed(3)).numpy()
    session.prefill(tokens[:, :20])
    whole = session.fork()
    chain = _chain(session)
    chain.keep_last(7)
    held = chain._states.read()
    for name, array in _chain(whole)._states.read().items():
        np.testing.assert_array_equal(held[name], array[:, :, 13:])
    feeds = {"input_ids": tokens[:, 20:], "position_ids": np.full((2, 1), 20), "logits_to_keep": np.arange(1)}
    got = chain.step({**feeds, "attention_mask": np.ones((2, 8), dtype=np.int64)})["logits"]
    np.testing.assert_allclose(got[:, 0], whole.decode(tokens[:, 20]), rtol=0, atol=2e-4)
    chain.keep_last(0)
    again = chain.step(
        {
            "input_ids": tokens[:, :3],
            "position_ids": np.tile(np.arange(3), (2, 1)),
            "attention_mask": np.ones((2, 3), np.int64),
            "logits_to_keep": np.arange(3),
        }
    )
    np.testing.assert_allclose(again["logits"], small.logits(torch.tensor(tokens[:, :3])), rtol=0, atol=2e-4)


def test_a_failed_step_leaves_the_cache(session: DecoderSession, small: Small) -> None:
    tokens = torch.randint(100, (1, 12), generator=torch.Generator().manual_seed(4))
    session.prefill(tokens.numpy()[:, :10])
    chain = _chain(session)
    before = chain._states.read()
    with pytest.raises(RuntimeRunError):
        chain.step(one_token(1, 10, 5))
    for name, array in chain._states.read().items():
        np.testing.assert_array_equal(array, before[name])
    for i in (10, 11):
        np.testing.assert_allclose(session.decode(tokens.numpy()[:, i]), small.logits(tokens)[:, i], rtol=0, atol=2e-4)


def test_inputs_of_the_shape_that_they_had_before_a_failed_step(session: DecoderSession, small: Small) -> None:
    """The request has those of the failed step by then, not the arrays in which they were given before."""
    tokens = torch.randint(100, (1, 12), generator=torch.Generator().manual_seed(7))
    session.prefill(tokens.numpy()[:, :10])
    chain = _chain(session)
    step = one_token(int(tokens[0, 10]), 10, 11)
    before = chain._states.read()
    expected = chain.step(step)["logits"]
    chain._states.set(before)
    with pytest.raises(RuntimeRunError):
        chain.step(one_token(0, 10, 5))
    np.testing.assert_array_equal(chain.step(step)["logits"], expected)


def test_freed_states_go_back_as_the_cache_grows(session: DecoderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[int] = []
    monkeypatch.setattr("edgeattn.runtimes.openvino_stateful.TIDY", 8)
    monkeypatch.setattr("edgeattn.runtimes.openvino_stateful.give_back", lambda: given_back.append(session.length + 1))
    session.prefill(np.ones((1, 5), np.int64))
    for _ in range(13):
        session.decode(np.ones(1, np.int64))
    assert given_back == [8, 16]
