"""Weights that were hashed once are not hashed again while nobody touches the file; every touch shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeattn
from edgeattn import bundle as bundles
from edgeattn import manifest, notes
from edgeattn.bundle import reading
from edgeattn.bundle.folder import verify_digest
from edgeattn.errors import BundleError

Make = dict[str, Callable[..., Any]]


@pytest.fixture
def settled(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny`, as if it had been written long ago."""
    monkeypatch.setattr(reading, "_SETTLED_NS", -(10**18))
    return tiny


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weight files hashed while loading, in turn."""
    names: list[str] = []

    def verify(root: Path, name: str, entry: Any) -> None:
        names.append(name)
        verify_digest(root, name, entry)

    monkeypatch.setattr(reading, "verify_digest", verify)
    return names


def test_a_second_load_does_not_hash_again(settled: Path, hashed: list[str]) -> None:
    for _ in range(3):
        edgeattn.load(settled).close()
    assert hashed == ["weights-fp32.bin"]


def test_what_check_verified_is_not_hashed_again(settled: Path, hashed: list[str]) -> None:
    """A bundle that was checked on a device loads quickly there from the first time on."""
    bundles.open_bundle(settled)
    edgeattn.load(settled).close()
    assert hashed == ["weights-fp32.bin"]


def test_an_edit_that_sets_its_time_back_is_found(settled: Path) -> None:
    edgeattn.load(settled).close()
    weights = settled / "weights-fp32.bin"
    before = weights.stat()
    time.sleep(0.05)  # file systems count in ticks of some milliseconds
    with weights.open("r+b") as file:
        file.seek(40)
        file.write(b"\x42")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(BundleError, match="does not match its SHA-256"):
        edgeattn.load(settled)


def test_a_file_put_in_its_place_is_found(settled: Path, tmp_path: Path) -> None:
    edgeattn.load(settled).close()
    weights = settled / "weights-fp32.bin"
    other = tmp_path / "other"
    other.write_bytes(bytes(weights.stat().st_size))
    other.replace(weights)
    with pytest.raises(BundleError, match="does not match its SHA-256"):
        edgeattn.load(settled)


def test_what_did_not_match_is_not_noted(settled: Path, make: Make) -> None:
    make["scale_weight"](settled, 10)
    for _ in range(2):
        with pytest.raises(BundleError, match="does not match its SHA-256"):
            edgeattn.load(settled)


def test_a_file_that_just_changed_is_hashed_again(tiny: Path, hashed: list[str]) -> None:
    """A second edit within the same tick would leave no trace."""
    os.utime(tiny / "weights-fp32.bin")
    for _ in range(2):
        edgeattn.load(tiny).close()
    assert hashed == ["weights-fp32.bin"] * 2


def test_check_relies_on_no_note(settled: Path) -> None:
    weights = settled / "weights-fp32.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    found = bundles.Bundle(settled, manifest.loads((settled / "manifest.json").read_text()))
    notes.remember("verified", reading._state(found, "weights-fp32.bin"))  # as somebody with this account could
    edgeattn.load(settled).close()
    with pytest.raises(BundleError, match="does not match its SHA-256"):
        bundles.open_bundle(settled)


def test_without_a_cache_every_load_hashes(
    settled: Path, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        edgeattn.load(settled).close()
    assert hashed == ["weights-fp32.bin"] * 2
