"""The small language model and the small encoder-decoders, each exported once, and the former loaded on each runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeattn.decoding import DecoderSession, load_decoder
from tests.edgeattn.decoding.pairs import FAMILIES, Pair, export_pair
from tests.edgeattn.decoding.small import RUNTIMES, Small, export_small, with_token_model

TOKEN = "openvino, a token"
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


@pytest.fixture(scope="session")
def token_bundle(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model of its own for a single token on OpenVINO. Do not write into it: copy it first."""
    return with_token_model(small.bundle, tmp_path_factory.mktemp("token") / "bundle")


@pytest.fixture(params=[*RUNTIMES, TOKEN])
def session(request: pytest.FixtureRequest, small: Small) -> Iterator[DecoderSession]:
    """The bundle on each runtime, and on OpenVINO with a model of its own for a single token."""
    if request.param == TOKEN:
        loaded = load_decoder(request.getfixturevalue("token_bundle"), "openvino")
    else:
        loaded = load_decoder(small.bundle, request.param)
    with loaded:
        yield loaded
