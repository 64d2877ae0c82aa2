"""The small language model and the small encoder-decoders, each exported once, and the former loaded on each runtime."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeattn.decoding import DecoderSession, load_decoder
from tests.edgeattn.decoding.pairs import FAMILIES, Pair, export_pair
from tests.edgeattn.decoding.small import RUNTIMES, Small, export_small

QUICK = ("bart",)
"""Families outside of `pytest -m slow`."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Do not write into its bundle: copy it first."""
    return export_small(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session", params=[pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FAMILIES])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Each family. Do not write into its bundle: copy it first."""
    return export_pair(request.param, tmp_path_factory.mktemp("pair"))


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, small: Small) -> Iterator[DecoderSession]:
    """The bundle on each runtime."""
    with load_decoder(small.bundle, request.param) as loaded:
        yield loaded
