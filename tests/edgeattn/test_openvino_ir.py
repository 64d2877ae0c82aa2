"""An OpenVINO file of a bundle is read with suspicion: known layers, plain XML, numbers from a listed file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.errors import BundleError
from edgeattn.manifest import TensorInfo
from edgeattn.openvino_ir import Layer, Note, read_ir

LAYER = '<layer id="0" name="a" type="{}" version="{}"/>'
NET = '<?xml version="1.0"?>\n<net name="n" version="11"><layers>{}</layers><rt_info>{}</rt_info></net>'
NOTE = Note("weights-fp32.bin", (TensorInfo("x", "float32", ("batch", 3)),), (), {"past": ("present", "state")})


def _file(folder: Path, text: str) -> Path:
    path = folder / "model.xml"
    path.write_text(text, encoding="utf-8")
    return path


def _noted(note: str) -> str:
    value = note.replace('"', "&quot;")
    return NET.format("", f'<edgeattn><note value="{value}"/></edgeattn>')


def test_a_note_of_before_there_were_models_for_a_token(tmp_path: Path) -> None:
    assert read_ir(_file(tmp_path, _noted(NOTE.dumps().replace(', "token": false', "")))).note() == NOTE


def test_layers(tmp_path: Path) -> None:
    body = f"<body><layers>{LAYER.format('Loop', 'opset5')}</layers></body>"
    path = _file(tmp_path, NET.format(LAYER.format("Add", "opset1") + body, ""))
    assert read_ir(path).layers == {Layer("opset1", "Add"), Layer("opset5", "Loop")}


@pytest.mark.parametrize(
    ("kind", "opset"), [("Add", "extension"), ("Add", "opset99"), ("Foreign", "opset1"), ("Loop", "opset5")]
)
def test_a_foreign_layer(tmp_path: Path, kind: str, opset: str) -> None:
    path = _file(tmp_path, NET.format(LAYER.format("Add", "opset1") + LAYER.format(kind, opset), ""))
    assert list(map(str, read_ir(path).foreign)) == [f"{opset}::{kind}"]


def test_a_layer_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    assert read_ir(_file(tmp_path, NET.format('<layer id="0"/>', ""))).foreign


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE net [<!ENTITY a "b">]><net>&a;</net>',
        '<!DOCTYPE net SYSTEM "file:///etc/hostname"><net/>',
        '<?xml version="1.0" encoding="latin-1"?><net/>',
        "\ufeff<net/>",
        "<net><layers></net>",
        "",
        "<net>" * 1000 + "</net>" * 1000,
    ],
)
def test_what_is_no_plain_xml(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError, match="no plain XML"):
        read_ir(_file(tmp_path, text))


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeattn.openvino_ir.MAX_BYTES", 10)
    with pytest.raises(BundleError, match="at most 10"):
        read_ir(_file(tmp_path, NET.format("", "")))


@pytest.mark.parametrize("token", [False, True])
def test_a_note(tmp_path: Path, token: bool) -> None:
    note = replace(NOTE, token=token)
    assert read_ir(_file(tmp_path, _noted(note.dumps()))).note() == note
    assert read_ir(_file(tmp_path, NET.format("", ""))).note() is None


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        (NOTE.dumps().replace("3", "3.5"), "damaged"),
        (NOTE.dumps().replace("weights-", "../weights-"), "beside"),
        (NOTE.dumps().replace(".bin", ".xml"), "beside"),
    ],
)
def test_a_damaged_note(tmp_path: Path, note: str, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        read_ir(_file(tmp_path, _noted(note))).note()
