"""The inputs that a decoder with its cache is proven on."""

from __future__ import annotations

import pytest
import torch

from edgeattn.exporters.reference_run import size_grid
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.huggingface.folder import from_folder
from tests.exporters.families.building import build
from tests.exporters.families.test_decoders import FAMILIES


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return from_folder(build(FAMILIES["Gemma 2"], tmp_path_factory.mktemp("gemma2")), cache=True)


def test_every_token_sees_a_key_however_small_the_window(source: Source) -> None:
    """Itself or the one before. Without any, eager attention of transformers averages over all values."""
    for number, sizes in enumerate(size_grid(source.dimensions)):
        mask = source.sample(sizes, torch.Generator().manual_seed(number))["attention_mask"]
        before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
        assert (mask | before)[:, sizes["past"] :].all(), sizes


def test_some_rows_are_padded_and_some_are_not(source: Source) -> None:
    drawn = [source.sample(sizes, torch.Generator().manual_seed(0)) for sizes in size_grid(source.dimensions)]
    whole = [feeds["attention_mask"].all(dim=1) for feeds in drawn]
    assert all(rows.any() and not rows.all() for rows in whole if len(rows) > 1)
    single = [bool(rows) for rows in whole if len(rows) == 1]
    assert any(single)
    assert not all(single)


def test_shaken_it_is_off_in_the_last_place_and_afterwards_not_at_all(source: Source) -> None:
    assert source.shaken is not None
    feeds = source.sample({"batch": 2, "sequence": 3, "past": 4, "kept": 2}, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = source.module(**feeds)["logits"]
        with source.shaken():
            first, second = (source.module(**feeds)["logits"] for _ in range(2))
        after = source.module(**feeds)["logits"]
    assert torch.equal(before, after)
    assert 0 < (first - before).abs().max() < 1e-3
    assert not torch.equal(first, second)
