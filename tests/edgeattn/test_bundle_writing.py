"""A bundle is there whole or not at all, whatever ends the export: an exception, a kill, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.bundle import MANIFEST, Bundle, check_output, open_bundle, pack, seal, writing
from edgeattn.errors import UsageError
from edgeattn.manifest import Manifest, loads

MakeBundle = Callable[..., Path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_result_appears_only_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with writing(output) as work:
        (work / "a").write_text("x")
        assert not output.exists()
    assert names(output.parent) == ["out"]
    assert names(output) == ["a"]
    assert output.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def export() -> None:
        with writing(tmp_path / "out") as work:
            (work / "a").write_text("x")
            raise error

    with pytest.raises(error):
        export()
    assert names(tmp_path) == []


def test_exception_keeps_the_old_bundle(folder: Path) -> None:
    def export() -> None:
        with writing(folder, force=True) as work:
            (work / "a").write_text("x")
            raise ValueError

    with pytest.raises(ValueError):
        export()
    assert open_bundle(folder)
    assert names(folder.parent) == ["bundle"]


KILLED = """
import os, pathlib, signal, sys
from edgeattn.bundle import writing
with writing(pathlib.Path(sys.argv[1]), force=True) as work:
    (work / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_leaves_nothing_under_the_name_and_the_next_run_sweeps(tmp_path: Path) -> None:
    output = tmp_path / "out[1]"  # a name that is a pattern to glob
    assert run(KILLED, output).returncode == -signal.SIGKILL
    assert not output.exists()
    assert len(names(tmp_path)) == 1
    with writing(output) as work:
        (work / "whole").write_text("x")
    assert names(tmp_path) == ["out[1]"]
    assert names(output) == ["whole"]


def test_kill_keeps_the_old_bundle(folder: Path) -> None:
    assert run(KILLED, folder).returncode == -signal.SIGKILL
    assert open_bundle(folder)


KILLED_WHILE_REPLACING = """
import os, pathlib, signal, sys
from edgeattn.bundle import writing
with writing(pathlib.Path(sys.argv[1]), force=True) as work:
    (work / "manifest.json").write_text("new")
    rename, calls = pathlib.Path.rename, []
    def rename_once(self, target):
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(target)
        return rename(self, target)
    pathlib.Path.rename = rename_once
"""


def test_kill_between_the_two_renames_loses_nothing(folder: Path) -> None:
    assert run(KILLED_WHILE_REPLACING, folder).returncode == -signal.SIGKILL
    assert not folder.exists()
    with pytest.raises(UsageError, match="exists"), writing(folder):
        pass
    assert open_bundle(folder)
    assert names(folder.parent) == ["bundle"]


DISK_FULL = """
import pathlib, resource, sys
from edgeattn.bundle import writing
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with writing(pathlib.Path(sys.argv[1])) as work:
        (work / "small").write_bytes(bytes(1 << 10))
        (work / "large").write_bytes(bytes(1 << 20))
except OSError as error:
    sys.exit(str(error))
"""


def test_file_system_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    done = run(DISK_FULL, tmp_path / "out")
    assert "File too large" in done.stderr
    assert names(tmp_path) == []


PACK_WHEN_FULL = """
import pathlib, resource, sys
from edgeattn.bundle import open_bundle, pack
bundle = open_bundle(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
pack(bundle, pathlib.Path(sys.argv[2]))
"""


def test_pack_that_does_not_fit_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    assert run(PACK_WHEN_FULL, folder, tmp_path / "b.edgeattn").returncode == 1
    assert names(tmp_path) == ["bundle"]


def test_pack_sweeps_what_a_killed_one_left(bundle: Bundle, tmp_path: Path) -> None:
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    (tmp_path / f".b.edgeattn.partial-{finished.pid}").write_text("half")
    pack(bundle, tmp_path / "b.edgeattn")
    assert names(tmp_path) == ["b.edgeattn", "bundle"]


def test_sweep_leaves_a_running_export_alone(tmp_path: Path) -> None:
    with writing(tmp_path / "out") as first:
        with pytest.raises(ValueError), writing(tmp_path / "out"):
            raise ValueError
        assert first.is_dir()


def test_second_export_to_the_same_place_does_not_replace_the_first(tmp_path: Path) -> None:
    def export() -> None:
        with writing(tmp_path / "out") as slow:
            (slow / "slow").write_text("x")
            with writing(tmp_path / "out") as fast:
                (fast / "fast").write_text("x")

    with pytest.raises(UsageError, match="exists"):
        export()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["fast"]


def test_output_that_exists_is_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(UsageError, match="bundle exists; choose another -o, or pass --force to replace it"):
        check_output(folder, force=False)
    with pytest.raises(UsageError), writing(folder):
        pytest.fail("the block must not run")


def test_force_replaces_bundles_and_empty_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for output in (folder, tmp_path / "empty"):
        with writing(output, force=True) as work:
            (work / "new").write_text("x")
        assert names(output) == ["new"]
    assert names(tmp_path) == ["bundle", "empty"]


def test_force_spares_what_is_no_bundle(tmp_path: Path) -> None:
    home, file, dangling = tmp_path / "home", tmp_path / "file", tmp_path / "dangling"
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    file.write_text("x")
    dangling.symlink_to("nowhere")
    for output in (home, file, dangling):
        with pytest.raises(UsageError, match="exists and is not a bundle; --force replaces bundles only"):
            check_output(output, force=True)


def test_force_replaces_a_link_and_spares_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(folder.name)
    with writing(link, force=True) as work:
        (work / "new").write_text("x")
    assert names(link) == ["new"]
    assert not link.is_symlink()
    assert open_bundle(folder)
    assert names(tmp_path) == ["bundle", "latest"]


def test_paths_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with writing(Path("../out")) as work:
        (work / "a").write_text("x")
    assert names(tmp_path) == ["here", "out"]


def test_seal_lists_every_file_with_its_hash(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / MANIFEST).write_text("not the bundle's own")
    (tmp_path / "model.onnx").write_bytes(b"abc")
    sealed = seal(tmp_path, manifest)
    assert set(sealed.files) == {"model.onnx", f"tokenizer/{MANIFEST}"}
    assert sealed.files["model.onnx"].size == 3
    assert sealed.files["model.onnx"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert loads((tmp_path / MANIFEST).read_text()) == replace(manifest, files=sealed.files)


def test_pack_and_open_again(bundle: Bundle, tmp_path: Path) -> None:
    packed = tmp_path / "b.edgeattn"
    pack(bundle, packed)
    with zipfile.ZipFile(packed) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    for _ in range(2):  # unpacked, then from the cache
        opened = open_bundle(packed)
        assert opened.manifest == bundle.manifest
        assert all(opened.file(name).read_bytes() == bundle.file(name).read_bytes() for name in bundle.manifest.files)


def test_pack_of_files_older_than_zip(bundle: Bundle, tmp_path: Path) -> None:
    os.utime(bundle.file("model.onnx"), (0, 0))
    pack(bundle, tmp_path / "b.edgeattn")
    assert open_bundle(tmp_path / "b.edgeattn").manifest == bundle.manifest


def test_damaged_cache_is_unpacked_again(bundle: Bundle, tmp_path: Path) -> None:
    packed = tmp_path / "b.edgeattn"
    pack(bundle, packed)
    cached = open_bundle(packed).file("model.onnx")
    cached.write_bytes(b"other")
    assert open_bundle(packed).file("model.onnx").read_bytes() == b"graph"


def test_sizes(bundle: Bundle) -> None:
    assert bundle.size == sum(bundle.file(name).stat().st_size for name in bundle.manifest.files)
    assert bundle.flavour_size(bundle.manifest.flavours[0]) == len(b"graph") + 700
