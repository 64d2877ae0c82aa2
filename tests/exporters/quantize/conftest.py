"""The small encoder and the small decoder, each exported once at full precision, and a cache of trials that is the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeattn
from tests.edgeattn.decoding.small import export_small
from tests.exporters.quantize.small_encoder import SOURCE, TARGETS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one test tried must not be remembered in another, nor in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def encoder_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`file.py:factory`."""
    path = tmp_path_factory.mktemp("quantize") / "small_encoder_source.py"
    path.write_text(SOURCE)
    return f"{path}:build"


@pytest.fixture(scope="session")
def encoder(encoder_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For both runtimes. Do not write into it: copy it first."""
    output = tmp_path_factory.mktemp("quantize") / "encoder"
    edgeattn.export(encoder_source, output=output, runtimes=list(TARGETS))
    return output


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For both runtimes, with a cache. Do not write into it: copy it first."""
    return export_small(tmp_path_factory.mktemp("quantize")).bundle
