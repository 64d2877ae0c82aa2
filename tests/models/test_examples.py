"""Examples by name: the same each time, of the size asked for, with inputs that mean something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeattn.errors import UsageError
from edgeattn.models import attention, example, list_variants


@pytest.mark.parametrize("name", list_variants())
def test_examples_are_the_same_each_time_and_touch_no_seed(name: str) -> None:
    torch.manual_seed(5)
    first, inputs, _ = example(name)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    second, again, _ = example(name)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert not first.training
    assert all(torch.equal(inputs[key], again[key]) for key in inputs)
    assert torch.equal(first(**inputs), second(**again))


@pytest.mark.parametrize("name", list_variants())
def test_sizes_are_those_asked_for(name: str) -> None:
    module, inputs, dynamic = example(name, sequence=7, batch=3)
    sizes = {"batch": 3, "sequence": 7, "context": 8}
    assert module(**inputs).shape[0] == 3
    for key, axes in dynamic.items():
        assert {0: "batch"}.items() <= axes.items()
        for axis, symbol in axes.items():
            assert inputs[key].shape[axis] == sizes[getattr(symbol, "__name__", symbol)]


def test_masks_hide_something() -> None:
    _, inputs, dynamic = example("cross", sequence=5)
    assert inputs["mask"].tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert dynamic["mask"] == {0: "batch", 1: "context"}
    _, inputs, dynamic = example("document")
    assert inputs["mask"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, -1]]
    assert dynamic["mask"] == {0: "batch", 1: "sequence"}
    assert example("prefix_lm")[1]["prefix"].tolist() == [1, 2]


def test_a_layout_bounds_the_length() -> None:
    _, _, dynamic = example("block_sparse", sequence=15)
    assert dynamic["x"][1].max == 15
    with pytest.raises(UsageError, match="sequence must be at least 1 and at most 15 here, got 16"):
        example("block_sparse", sequence=16)
    with pytest.raises(UsageError, match="batch must be at least 1 here, got 0"):
        example("self", batch=0)


def test_a_parameter_nothing_is_known_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "__path__", [*attention.__path__, str(tmp_path)])
    (tmp_path / "stranger.py").write_text(
        "from edgeattn.models.attention.projected import ProjectedAttention\n"
        "from edgeattn.models.variant import variant\n\n"
        '@variant("stranger", embed_dim=4, num_heads=2)\nclass Stranger(ProjectedAttention):\n'
        "    def forward(self, x, weather):\n        return self.attend(x, x, x)\n"
    )
    with pytest.raises(UsageError, match="no example for the parameter 'weather' of forward: name it after what it is"):
        example("stranger")
