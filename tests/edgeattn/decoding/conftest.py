"""The small language model, exported once, and loaded on each runtime."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeattn.decoding import DecoderSession, load_decoder
from tests.edgeattn.decoding.small import RUNTIMES, Small, export_small


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Do not write into its bundle: copy it first."""
    return export_small(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, small: Small) -> Iterator[DecoderSession]:
    """The bundle on each runtime."""
    with load_decoder(small.bundle, request.param) as loaded:
        yield loaded
