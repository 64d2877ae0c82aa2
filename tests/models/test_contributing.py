"""The variant that CONTRIBUTING.md shows works as it stands there: found by its file, made, exported, proven."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgeattn
from edgeattn.models import attention, example, variant_paper, variant_summary

ROOT = Path(__file__).resolve().parents[2]


def shown_file() -> str:
    """The Python block of the section about variants."""
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Adding an attention variant\n")[1].split("\n## ")[0]
    )
    return section.split("```python\n")[1].split("```")[0]


def test_the_variant_shown_is_found_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "attention"
    folder.mkdir()
    (folder / "backward.py").write_text(shown_file(), encoding="utf-8")
    monkeypatch.setattr(attention, "__path__", [*attention.__path__, str(folder)])
    assert variant_summary("backward").startswith("Backward attention: ")
    assert variant_paper("backward") == "https://arxiv.org/abs/1709.04696"
    module, inputs, dynamic = example("backward")
    changed = {"x": inputs["x"].clone()}
    changed["x"][:, 2] += 1.0
    moved = (module(**changed) != module(**inputs)).any(dim=2)
    assert torch.equal(moved, torch.tensor([True, True, True, False, False, False]).expand(2, 6))
    report = edgeattn.export(module, inputs, dynamic=dynamic, output=tmp_path / "out")
    assert report.passed
    assert [site.spec.pattern.summary() for site in report.sites] == ["window [0, all]"]
