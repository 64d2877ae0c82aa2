"""docs/MATRIX.md is of this code: it names every variant and every form, and each variant is proven on each runtime."""

from __future__ import annotations

from pathlib import Path

from edgeattn.exporters.lowerings.registry import WHOLE
from edgeattn.models import list_variants, variant_paper

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "MATRIX.md").read_text(encoding="utf-8")


def _table(title: str) -> list[list[str]]:
    """Header and rows of the table below a heading."""
    _, _, section = PAGE.partition(f"## {title}\n")
    section, _, _ = section.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").replace(r"\|", "/").split("|")] for line in lines if "---" not in line]


def test_every_variant_has_a_row_with_its_paper() -> None:
    _, *rows = _table("What each variant becomes")
    assert [row[0] for row in rows] == [f"[{name}]({variant_paper(name)})" for name in list_variants()]


def test_every_variant_gets_a_known_form_on_both_runtimes() -> None:
    header, *rows = _table("What each variant becomes")
    columns = [i for i, title in enumerate(header) if title.startswith("edgeattn")]
    assert len(columns) == 2
    for row in rows:
        for column in columns:
            form = row[column].partition(":")[0]
            assert set(form.split(" + ")) <= set(WHOLE), row


def test_every_form_has_a_column() -> None:
    for runtime in ("onnxruntime", "openvino"):
        header, *rows = _table(f"Every form on {runtime}")
        assert header == ["variant", *WHOLE]
        assert [row[0] for row in rows] == list(list_variants())


def test_the_standard_s_cases_pass() -> None:
    header, *rows = _table("The standard's own test cases")
    for row in rows:
        result = dict(zip(header, row, strict=True))
        assert int(result["ours: pass"]) + int(result["ours: inexpressible"]) == int(result["cases"]) > 0
