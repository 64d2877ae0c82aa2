"""Variants by name: what is found in the files, the options, the messages; and what importing costs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgeattn.errors import SpecError, UsageError
from edgeattn.models import attention, create, example, list_variants, variant_paper, variant_summary
from edgeattn.models.registry import example_options, variant_class, variant_options


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files count as those of `edgeattn.models.attention`."""
    monkeypatch.setattr(attention, "__path__", [*attention.__path__, str(tmp_path)])
    return tmp_path


def test_every_attention_without_subclasses_is_a_variant() -> None:
    from edgeattn.models.attention.core import AttentionCore

    files = Path(str(attention.__file__)).parent.glob("*.py")
    modules = [importlib.import_module(f"{attention.__name__}.{path.stem}") for path in files]
    classes = {cls for module in modules for cls in vars(module).values() if isinstance(cls, type)}
    attentions = {cls for cls in classes if issubclass(cls, AttentionCore)}
    leaves = {cls for cls in attentions if not attentions & set(cls.__subclasses__())}
    assert len(leaves) > 20
    assert leaves <= {variant_class(name) for name in list_variants()}


@pytest.mark.parametrize("name", list_variants())
def test_a_variant_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    assert variant_summary(name).endswith(".")
    assert variant_paper(name).startswith(("https://arxiv.org/abs/", "https://doi.org/"))
    assert "->" in (variant_class(name).__doc__ or ""), "the shapes of forward"


def test_a_new_file_is_a_new_variant(folder: Path) -> None:
    (folder / "mine.py").write_text(
        '"""Mine: as it is. Second.\n\nSee (https://example.org/paper), and https://example.org/other."""\n'
        "from edgeattn.models.attention.self_attention import SelfAttention\n"
        "from edgeattn.models.variant import variant\n\n"
        '@variant("my_own", embed_dim=4, num_heads=2)\nclass Mine(SelfAttention):\n    pass\n'
    )
    assert "my_own" in list_variants()
    assert variant_summary("my_own") == "Mine: as it is. Second."
    assert variant_paper("my_own") == "https://example.org/paper"
    assert example_options("my_own") == {"embed_dim": 4, "num_heads": 2}
    assert "softcap" in variant_options("my_own")
    assert type(example("my_own")[0]).__name__ == "Mine"


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('@variant("self", embed_dim=4)', r"two variants are called 'self': self_attention.py and mine.py; rename one"),
        ('@variant("My-Own")', r"mine.py:2: a variant is named like_this, got 'My-Own'"),
        ("@variant(NAME)", r'mine.py:2: expected @variant\("name", option=literal, ...\), got variant\(NAME\)'),
        ('@variant("mine", scale=1 / 8)', r"mine.py:2: expected .*, got variant\('mine', scale=1 / 8\)"),
        ("@variant()", r"mine.py:2: expected .*, got variant\(\)"),
    ],
)
def test_marks_that_cannot_be_read(folder: Path, mark: str, message: str) -> None:
    (folder / "mine.py").write_text(f"import this_is_never_imported\n{mark}\nclass Mine:\n    pass\n")
    with pytest.raises(UsageError, match=message):
        list_variants()


def test_create_passes_options_on() -> None:
    module = create("grouped_query", embed_dim=12, num_heads=4, num_kv_heads=2, mask="key_padding")
    assert module.spec.summary() == "4q/2kv heads x 3, key_padding mask"  # type: ignore[union-attr, operator]


def test_options_are_told_with_their_need() -> None:
    options = variant_options("grouped_query")
    assert {name for name, needed in options.items() if needed} == {"embed_dim", "num_heads", "num_kv_heads"}
    assert {"head_dim", "softcap", "mask"} <= set(options)


def test_an_option_that_a_variant_fixes_is_none_of_its_options() -> None:
    fixed = {"document": "mask", "sink": "sink", "sigmoid": "normalizer", "dilated": "pattern", "luong_dot": "scale"}
    for name, option in fixed.items():
        assert option not in variant_options(name)
        with pytest.raises(UsageError, match=f"unknown option '{option}'"):
            create(name, **example_options(name), **{option: None})
    assert "pattern" in variant_options("scaled_dot_product")


def test_unknown_variant() -> None:
    for ask in (create, variant_paper, variant_summary, variant_options, example):
        with pytest.raises(UsageError, match="unknown variant 'multihead'; did you mean 'multi_head'"):
            ask("multihead")


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


def test_finding_needs_no_torch() -> None:
    code = (
        "import sys, edgeattn.models as m; [m.variant_summary(n) + m.variant_paper(n) for n in m.list_variants()];"
        "print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_creating_needs_no_transformers() -> None:
    code = "import sys, edgeattn.models as m; m.create('self', embed_dim=4); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
