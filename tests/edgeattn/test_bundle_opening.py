"""What `open_bundle` refuses: truncated, edited, foreign and hostile bundles, as folders and as archives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeattn.bundle import MANIFEST, Bundle, open_bundle, pack
from edgeattn.errors import BundleError


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a bundle in place."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def rename_entry(folder: Path, old: str, new: str) -> None:
    """Let the manifest list `new` with the hash of `old`."""
    edit(folder, lambda data: data["files"].update({new: data["files"].pop(old)}))


def test_sound_bundle_opens(bundle: Bundle, folder: Path) -> None:
    assert bundle.path == folder
    assert open_bundle(str(folder)) == bundle


def test_bundle_reached_through_a_link_opens(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    assert open_bundle(tmp_path / "latest").file("model.onnx").read_bytes() == b"graph"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle: it is not there; `edgeattn export SOURCE -o .*` makes one"):
        open_bundle(tmp_path / "nowhere")


def test_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle: it has no manifest\.json"):
        open_bundle(tmp_path)


def test_oversized_manifest(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(BundleError, match=r"16777217 bytes, at most 16777216 are read"):
        open_bundle(folder)


def test_other_format_version(folder: Path) -> None:
    edit(folder, lambda data: data.update(format=2))
    with pytest.raises(BundleError, match="has format 2, this edgeattn reads format 1"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["model.onnx", "weights-fp32.bin", "probes/p.onnx", "golden/one.safetensors"])
def test_every_file_is_verified(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"{name} has .* bytes, manifest.json says .* it was truncated or edited"):
        open_bundle(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name} does not match its SHA-256 in manifest.json"):
        open_bundle(folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing; copy or export the bundle again"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["model.onnx", "probes/p.onnx", "golden/one.safetensors"])
def test_used_files_must_be_listed(folder: Path, name: str) -> None:
    edit(folder, lambda data: data["files"].pop(name))
    with pytest.raises(BundleError, match=f"uses '{name}' but does not list its hash"):
        open_bundle(folder)


def test_unlisted_file_is_not_handed_out(bundle: Bundle) -> None:
    (bundle.path / "extra.onnx").write_text("x")
    for name in ("extra.onnx", MANIFEST, "../bundle/model.onnx"):
        with pytest.raises(BundleError, match=r"is not listed in manifest\.json; the bundle is foreign or was edited"):
            bundle.file(name)


def test_foreign_operator_domain_in_what_is_no_model(folder: Path) -> None:
    edit(folder, lambda data: data["flavours"][0]["domains"].update({"evil.corp": 1}))
    with pytest.raises(BundleError, match=r"model\.onnx is not a complete ONNX model"):
        open_bundle(folder)


def test_too_many_files(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({f"f{i}": data["files"]["model.onnx"] for i in range(10_000)}))
    with pytest.raises(BundleError, match="files listed, at most 10000 are read"):
        open_bundle(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside", "a/../../outside", "/etc/hostname", "..", "", ".", "..\\outside", "C:outside", "file:outside"],
)
def test_paths_that_leave_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_bytes(b"weights" * 100)
    rename_entry(folder, "weights-fp32.bin", name)
    with pytest.raises(BundleError, match="leaves the bundle; do not use this bundle"):
        open_bundle(folder)


def test_absolute_path_of_a_file_inside(folder: Path) -> None:
    rename_entry(folder, "weights-fp32.bin", str(folder / "weights-fp32.bin"))
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0", "\ud800"])
def test_names_no_file_system_takes(folder: Path, name: str) -> None:
    rename_entry(folder, "weights-fp32.bin", name)
    with pytest.raises(BundleError, match="is missing"):
        open_bundle(folder)


def test_linked_file(folder: Path) -> None:
    shutil.move(folder / "model.onnx", folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is a link"):
        open_bundle(folder)


def test_file_in_a_linked_folder(folder: Path) -> None:
    shutil.move(folder / "probes", folder.parent / "elsewhere")
    (folder / "probes").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"probes/p\.onnx is a link, or in a linked folder,"):
        open_bundle(folder)


def test_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        open_bundle(folder)


def test_opening_needs_neither_torch_nor_onnx(folder: Path) -> None:
    code = "import sys; from edgeattn.bundle import open_bundle; open_bundle(sys.argv[1]); print(*{'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    """A sound `.edgeattn` file."""
    pack(bundle, tmp_path / "b.edgeattn")
    return tmp_path / "b.edgeattn"


def add(packed: Path, name: str, content: bytes = b"x", compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), content, compression)


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/tmp/outside", "..\\outside", "C:/outside"])
def test_zip_slip(packed: Path, tmp_path: Path, name: str) -> None:
    add(packed, name)
    with pytest.raises(BundleError, match="leaves the bundle; do not use this file"):
        open_bundle(packed)
    assert not list((tmp_path / "cache").rglob("*"))


def test_zip_bomb(packed: Path, tmp_path: Path) -> None:
    add(packed, "zeros", bytes(50 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match=r"holds at most 10000 stored \(uncompressed\) files"):
        open_bundle(packed)
    assert not list((tmp_path / "cache").rglob("*"))


def test_entries_that_share_their_bytes(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.edgeattn"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("a", bytes(1 << 20))
        for i in range(20):
            twin = zipfile.ZipInfo(f"b{i}")
            for field in ("header_offset", "CRC", "file_size", "compress_size", "create_version", "extract_version"):
                setattr(twin, field, getattr(archive.filelist[0], field))
            archive.filelist.append(twin)
    with pytest.raises(BundleError, match="its entries are larger than the file"):
        open_bundle(bomb)


def test_encrypted_entry(packed: Path) -> None:
    raw = bytearray(packed.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    packed.write_bytes(raw)
    with pytest.raises(BundleError, match="stored"):
        open_bundle(packed)


def test_link_in_an_archive_stays_inside(packed: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    opened = open_bundle(packed)
    assert not (opened.path / "link").is_symlink()


def test_archive_made_by_another_zip_tool_opens(bundle: Bundle, tmp_path: Path) -> None:
    made = shutil.make_archive(str(tmp_path / "made"), "zip", bundle.path)
    stored = tmp_path / "made.edgeattn"
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(stored, "w") as target:
        assert any(entry.is_dir() for entry in source.infolist())
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert open_bundle(stored).manifest == bundle.manifest


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(BundleError, match=r"neither a bundle folder nor an \.edgeattn file"):
        open_bundle(tmp_path / "model.onnx")


def test_archive_without_a_manifest(tmp_path: Path) -> None:
    add(tmp_path / "b.edgeattn", "a")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path / "b.edgeattn")


def test_cache_that_cannot_be_written(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BundleError, match=r"b\.edgeattn: cannot be unpacked into .*file/edgeattn: "):
        open_bundle(packed)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_archives_give_a_bundle_error_or_the_same_bundle(packed: Path, bundle: Bundle, data: st.DataObject) -> None:
    raw = bytearray(packed.read_bytes())
    directory = raw.index(b"PK\x01\x02")  # most of what zipfile interprets lies from here on
    for position in data.draw(st.lists(st.integers(0, 200) | st.integers(directory, len(raw) - 1), min_size=1, max_size=3)):
        raw[position] = data.draw(st.integers(0, 255))
    damaged = packed.with_name("damaged.edgeattn")
    damaged.write_bytes(raw)
    try:
        opened = open_bundle(damaged)
    except BundleError:
        return
    assert opened.manifest == bundle.manifest


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_archives_give_a_bundle_error(packed: Path, data: st.DataObject) -> None:
    raw = packed.read_bytes()
    cut = packed.with_name("cut.edgeattn")
    cut.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(BundleError):
        open_bundle(cut)
