"""Variants by name: the list, the options, the messages; and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edgeattn.models.attention
from edgeattn.errors import SpecError, UsageError
from edgeattn.models import create, list_variants
from edgeattn.models.registry import variant_class, variant_options

HELPERS = {"__init__", "checks", "naive", "projected"}


def test_every_file_is_a_variant_and_every_variant_a_file() -> None:
    folder = Path(str(edgeattn.models.attention.__file__)).parent
    files = {path.stem for path in folder.glob("*.py")} - HELPERS
    assert {variant_class(name).__module__.rpartition(".")[2] for name in list_variants()} == files


def test_docstrings_name_the_paper() -> None:
    for name in list_variants():
        assert "arxiv.org" in (sys.modules[variant_class(name).__module__].__doc__ or ""), name


def test_create_passes_options_on() -> None:
    module = create("grouped_query", embed_dim=12, num_heads=4, num_kv_heads=2, mask="key_padding")
    assert module.spec.summary() == "4q/2kv heads x 3, key_padding mask"  # type: ignore[union-attr, operator]


def test_options_are_told_with_their_need() -> None:
    options = variant_options("grouped_query")
    assert {name for name, needed in options.items() if needed} == {"embed_dim", "num_heads", "num_kv_heads"}
    assert {"head_dim", "softcap", "mask"} <= set(options)


def test_unknown_variant() -> None:
    with pytest.raises(UsageError, match="unknown variant 'multihead'; did you mean 'multi_head'"):
        create("multihead")


def test_unknown_option_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown option 'heads'; .*variant 'self' takes embed_dim, num_heads=\.\.\., "):
        create("self", embed_dim=4, heads=2)


def test_missing_option() -> None:
    with pytest.raises(UsageError, match="variant 'grouped_query' needs num_heads, num_kv_heads; it takes embed_dim, "):
        create("grouped_query", embed_dim=4)


def test_option_of_the_wrong_type() -> None:
    with pytest.raises(UsageError, match=r"variant 'self': .*; it takes embed_dim"):
        create("self", embed_dim="four")


def test_option_of_a_wrong_value_exits_with_2() -> None:
    with pytest.raises(SpecError, match="softcap must be a finite number > 0, got -1") as caught:
        create("self", embed_dim=4, softcap=-1)
    assert caught.value.exit_code == 2


def test_listing_needs_no_torch() -> None:
    code = "import sys, edgeattn.models as m; m.list_variants(); print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_creating_needs_no_transformers() -> None:
    code = "import sys, edgeattn.models as m; m.create('self', embed_dim=4); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
