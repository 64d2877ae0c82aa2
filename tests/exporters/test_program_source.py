"""A saved torch.export program as a source: its own sizes and inputs, and nothing in the file that could run."""

from __future__ import annotations

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeattn import export
from edgeattn.errors import SourceError
from edgeattn.exporters.capture import capture
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Dimension
from edgeattn.exporters.sources.program import from_archive, from_program
from edgeattn.exporters.sources.resolve import resolve
from edgeattn.spec import SoftmaxAttention

B, S = torch.export.Dim("b"), torch.export.Dim("s", max=160)


class Encoder(nn.Module):
    """Embedding and attention; a constant argument and a nested one, as forwards have them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.shift = nn.Buffer(torch.tensor(0.5), persistent=False)

    def forward(self, ids: Tensor, attention_mask: Tensor, *, flag: bool = True, more: Any = None) -> Any:
        x = self.embed(ids) + self.shift
        out = self.attend(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        return {"hidden": out if flag else x, "pooled": out.sum(1)}


def _program(dynamic: bool = True) -> torch.export.ExportedProgram:
    ids = torch.arange(12).reshape(2, 6)
    axes = {0: B, 1: S} if dynamic else None
    return torch.export.export(
        Encoder().eval(),
        (ids, torch.ones_like(ids)),
        kwargs={"flag": True, "more": None},
        dynamic_shapes={"ids": axes, "attention_mask": axes, "flag": None, "more": None},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as a `.pt2` file."""
    path = tmp_path_factory.mktemp("program") / "encoder.pt2"
    torch.export.save(_program(), path)
    return path


def test_sizes_and_inputs_are_the_programs_own(saved: Path) -> None:
    source = resolve(str(saved))
    assert (source.kind, source.name) == ("program", "encoder.pt2")
    assert {name: x.shape for name, x in source.inputs.items()} == {"ids": (2, 6), "attention_mask": (2, 6)}
    assert source.inputs["ids"].tolist() == torch.arange(12).reshape(2, 6).tolist()
    axes = {0: "batch", 1: "sequence"}
    assert source.dynamic == {"ids": axes, "attention_mask": axes}
    assert source.dimensions == {"batch": Dimension("batch", batch=True), "sequence": Dimension("sequence", limit=160)}
    assert source.padding == "attention_mask"


def test_the_graph_is_the_programs(saved: Path) -> None:
    source = from_archive(saved)
    model = capture(source, ["hidden", "pooled"])
    sites = find_sites(model)
    assert [(site.spec, site.module) for site in sites] == [(SoftmaxAttention(2, 2, 8, mask="key_padding"), "attend")]
    assert unraised(model) == []
    assert "attend.out_proj.weight" in model.graph.initializers
    assert [str(dim) for dim in model.graph.inputs[0].shape or ()] == ["batch", "sequence"]


def test_a_program_becomes_a_bundle(saved: Path, tmp_path: Path) -> None:
    report = export(str(saved), output=tmp_path / "out", runtimes=["onnxruntime:cpu", "openvino:cpu"])
    assert report.passed
    assert len(report.sites) == 1


def test_a_live_program_equals_its_module(captured: Callable[..., Any]) -> None:
    source = from_program(_program())
    ids = torch.randint(50, (3, 9))
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] * 9])
    with torch.no_grad():
        assert torch.equal(source.module(ids=ids, attention_mask=mask)["pooled"], Encoder()(ids, mask)["pooled"])


class Nested(nn.Module):
    """A list of tensors, and an output that is None."""

    def forward(self, pair: list[Tensor], scale: float) -> Any:
        return pair[0] * scale + pair[1], None


def test_nested_arguments_and_constants() -> None:
    pair = [torch.randn(2, 3), torch.randn(2, 3)]
    program = torch.export.export(Nested(), (pair, 2.0))
    source = from_program(program)
    assert list(source.inputs) == ["pair_0", "pair_1"]
    result = source.module(pair_0=pair[0], pair_1=pair[1])
    assert torch.equal(result[0], pair[0] * 2.0 + pair[1])


def test_an_example_is_drawn_where_the_program_has_none() -> None:
    program = _program()
    program._example_inputs = None
    source = from_program(program)
    assert source.inputs["ids"].shape == (3, 3)
    assert 0 <= int(source.inputs["ids"].min()) <= int(source.inputs["ids"].max()) < 50
    assert source.inputs["attention_mask"].tolist() == [[1, 1, 1]] * 3
    with torch.no_grad():
        assert source.module(**source.inputs)["hidden"].shape == (3, 3, 16)


def test_a_static_program_has_fixed_sizes() -> None:
    assert from_program(_program(dynamic=False)).dimensions == {}


class Double(nn.Module):
    """A size that follows from another."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 2).sum(1)


def test_a_derived_size_is_refused() -> None:
    n = torch.export.Dim("n")
    program = torch.export.export(Double(), (torch.randn(8),), dynamic_shapes={"x": {0: 2 * n}})
    with pytest.raises(SourceError, match=r"axis 0 of 'x' is 2\*s\d+; a size computed from another"):
        from_program(program)


def test_names_of_further_dimensions() -> None:
    class Cross(nn.Module):
        def forward(self, q: Tensor, memory: Tensor) -> Tensor:
            return q @ memory.transpose(1, 2)

    dynamic = {"q": {0: B, 1: torch.export.Dim("t")}, "memory": {0: B, 1: torch.export.Dim("u")}}
    program = torch.export.export(Cross(), (torch.randn(2, 3, 4), torch.randn(2, 5, 4)), dynamic_shapes=dynamic)
    assert from_program(program).dynamic == {"q": {0: "batch", 1: "sequence"}, "memory": {0: "batch", 1: "memory_axis1"}}


# ----- what is refused


class Canary:
    """Unpickling it is noticed."""

    opened = False

    def __reduce__(self) -> Any:
        return (_open, ())


def _open() -> None:
    Canary.opened = True


def _edit(saved: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of the archive with other members."""
    with zipfile.ZipFile(saved) as archive:
        root = archive.namelist()[0].split("/")[0]
        members = {name.removeprefix(f"{root}/"): archive.read(name) for name in archive.namelist()}
    change(members)
    path = tmp_path / "edited.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"edited/{name}", data)
    return path


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"canary": Canary()}, buffer)
    return buffer.getvalue()


def _config(members: dict[str, bytes], kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    name = f"data/{kind}/model_{kind}_config.json"
    config = json.loads(members[name])
    change(config["config"])
    members[name] = json.dumps(config).encode()


def _samples(members: dict[str, bytes]) -> None:
    members["data/sample_inputs/model.pt"] = _pickled()


def _weight(members: dict[str, bytes]) -> None:
    members["data/weights/weight_0"] = _pickled()
    _config(members, "weights", lambda entries: entries["embed.weight"].update(use_pickle=True))


def _legacy_weights(members: dict[str, bytes]) -> None:
    members["data/weights/model.pt"] = _pickled()


def _constant(members: dict[str, bytes]) -> None:
    members["data/constants/opaque_obj_0"] = pickle.dumps(Canary())
    _config(members, "constants", lambda entries: entries.update(x={"path_name": "opaque_obj_0", "use_pickle": False}))


def _compiled(members: dict[str, bytes]) -> None:
    members["data/aotinductor/model/code.so"] = b"\x7fELF"


def _call(target: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        program = json.loads(members["models/model.json"])
        program["graph_module"]["graph"]["nodes"][0]["target"] = target
        members["models/model.json"] = json.dumps(program).encode()

    return change


def _size(text: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        program = json.loads(members["models/model.json"])
        program["graph_module"]["graph"]["tensor_values"]["ids"]["sizes"][0]["as_expr"]["expr_str"] = text
        members["models/model.json"] = json.dumps(program).encode()

    return change


def _without(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        del members[name]

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "sample inputs": (_samples, "its sample inputs are pickled objects other than tensors"),
    "a weight": (_weight, r"weight 'embed\.weight' is a pickled object \(weight_0\)"),
    "all weights": (_legacy_weights, r"its weights are pickled as a whole \(data/weights/model\.pt\)"),
    "a constant": (_constant, r"constant 'x' is a pickled object \(opaque_obj_0\)"),
    "machine code": (_compiled, "machine code compiled by AOTInductor"),
    "a function": (_call("torch.os.system"), r"calls 'torch\.os\.system', which is no operator"),
    "a library": (_call("torch.ops.load_library"), r"calls 'torch\.ops\.load_library', which is no operator"),
    "a method": (_call("torch.ops.load_library.__call__"), "which is no operator"),
    "a size": (_size("__import__('os').system('true')"), "which is no arithmetic"),
    "a size in words": (_size("Symbol('s0()', positive=True)"), "which is no arithmetic"),
    "attributes": (_size("s0.__class__"), "which is no arithmetic"),
    "no program": (_without("models/model.json"), r"is not a \.pt2 program: it holds .*no models/model\.json"),
    "no weights": (_without("data/weights/model_weights_config.json"), "it is incomplete"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_could_run_is_refused_and_does_not(kind: str, saved: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[kind]
    Canary.opened = False
    path = _edit(saved, tmp_path, change)
    with pytest.raises(SourceError, match=message):
        from_archive(path)
    assert not Canary.opened


def test_torch_itself_would_have_run_it(saved: Path, tmp_path: Path) -> None:
    """The refusals above are about something: torch.export.load opens such a file."""
    Canary.opened = False
    logging.disable(logging.WARNING)  # the warning with which torch does so is itself malformed
    try:
        torch.export.load(_edit(saved, tmp_path, _samples))
    finally:
        logging.disable(logging.NOTSET)
    assert Canary.opened


def test_an_unknown_operator_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"calls torch\.ops\.nobody\.knows\.default, which is not there"):
        from_archive(_edit(saved, tmp_path, _call("torch.ops.nobody.knows.default")))


def _script(path: Path) -> None:
    scripted: Any = torch.jit.script(nn.Linear(2, 2))
    scripted.save(str(path))


OTHER: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "TorchScript": ("model.pt", _script, "is TorchScript, which torch.export does not read"),
    "a state dict": ("model.pth", lambda p: torch.save(nn.Linear(2, 2).state_dict(), p), "is a pickle written by torch.save"),
    "a module": ("model.pt", lambda p: torch.save(nn.Linear(2, 2), p), "is a pickle written by torch.save"),
    "an old pickle": ("model.ckpt", lambda p: p.write_bytes(pickle.dumps(1)), r"is not a \.pt2 program \(a pickle\)"),
    "text": ("model.pt2", lambda p: p.write_text("hello"), r"is not a \.pt2 program \(not an archive"),
    "half a file": ("model.pt2", lambda p: p.write_bytes(b"PK\x03\x04"), r"is not a \.pt2 program \(not an archive"),
    "nothing": ("model.pt2", lambda p: None, "no file"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_files_are_answered_with_how_to_save(kind: str, tmp_path: Path) -> None:
    name, write, message = OTHER[kind]
    write(tmp_path / name)
    with pytest.raises(SourceError, match=message) as caught:
        resolve(str(tmp_path / name))
    assert kind == "nothing" or "torch.export.save(" in str(caught.value)
