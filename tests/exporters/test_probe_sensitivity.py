"""The probe can say no: forms with one thing wrong are found, the right one beside them passes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.lowerings.visibility import Visibility, visibility
from edgeattn.exporters.probing import probe_model
from edgeattn.probe import CROSS, GRID, run_probe
from edgeattn.spec import AttentionSpec, Causal, Full, SlidingWindow, SoftmaxAttention


class _Wrong(Decomposed):
    """Base of forms that are deliberately wrong, so that the probe has something to find."""

    name: ClassVar[str] = "wrong"


class NoScale(_Wrong):
    """Forgets the scale."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        wrong = SoftmaxAttention(core.spec.q_heads, core.spec.kv_heads, core.spec.head_dim, scale=1.0)
        return super().lower(b, Core(wrong), Operands(x.q, x.k, x.v))


class FiniteMask(_Wrong):
    """Hides keys with -10000, as com.microsoft's key_padding_mask does."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        shown = super().shown(b, core, x)
        assert shown.additive is not None
        return Visibility(b.op("Max", shown.additive, b.number(-10000)), shown.nonempty)


class NoMask(_Wrong):
    """Ignores the mask."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, Operands(x.q, x.k, x.v, None, x.bias))


class NoBias(_Wrong):
    """Ignores the bias."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, Operands(x.q, x.k, x.v, x.mask))


class NoPattern(_Wrong):
    """Ignores causality and windows."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, x, pattern=Full())


class WiderWindow(_Wrong):
    """One key too many on the left."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        pattern = core.spec.pattern
        assert isinstance(pattern, SlidingWindow)
        assert pattern.left is not None
        return visibility(b, core, x, pattern=SlidingWindow(pattern.left + 1, pattern.right, pattern.alignment))


class NarrowerWindow(_Wrong):
    """One key too few on the left."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        pattern = core.spec.pattern
        assert isinstance(pattern, SlidingWindow)
        assert pattern.left is not None
        return visibility(b, core, x, pattern=SlidingWindow(pattern.left - 1, pattern.right, pattern.alignment))


class OtherDiagonal(_Wrong):
    """Upper left instead of lower right."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return visibility(b, core, x, pattern=Causal("upper_left"))


class NoGuard(_Wrong):
    """Queries that see nothing get the mean of all values instead of zeros."""

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        return Visibility(super().shown(b, core, x).additive, None)


class SwappedHeads(_Wrong):
    """Reads the key heads in the wrong order."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        last = b.op("Slice", x.k, b.ints(-1), b.ints(-(1 << 40)), b.ints(1), b.ints(-1))
        return super().lower(b, core, Operands(x.q, last, x.v, x.mask, x.bias))


class InterleavedGroups(_Wrong):
    """Query head h reads key head h % K instead of h // (H / K)."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        k, v = (b.op("Concat", *[value] * spec.group, axis=1) for value in (x.k, x.v))
        return super().lower(b, Core(SoftmaxAttention(spec.q_heads, spec.q_heads, spec.head_dim)), Operands(x.q, k, v))


class NoSoftcap(_Wrong):
    """Forgets the soft cap."""

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = core.spec
        return super().lower(b, Core(SoftmaxAttention(spec.q_heads, spec.kv_heads, spec.head_dim)), x)


WRONG: dict[str, tuple[type[_Wrong], AttentionSpec]] = {
    "scale": (NoScale, SoftmaxAttention(2, 2, 8)),
    "softcap": (NoSoftcap, SoftmaxAttention(2, 2, 8, softcap=3.0)),
    "finite mask": (FiniteMask, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "finite causal": (FiniteMask, SoftmaxAttention(2, 2, 8, pattern=Causal())),
    "finite dense": (FiniteMask, SoftmaxAttention(2, 2, 8, mask="dense")),
    "mask": (NoMask, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "dense mask": (NoMask, SoftmaxAttention(2, 2, 8, mask="dense")),
    "mask beside a bias": (NoMask, SoftmaxAttention(2, 2, 8, mask="key_padding", bias=True)),
    "bias": (NoBias, SoftmaxAttention(2, 2, 8, bias=True)),
    "causal": (NoPattern, SoftmaxAttention(2, 2, 8, pattern=Causal())),
    "window": (NoPattern, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 3))),
    "window + 1": (WiderWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0))),
    "window - 1": (NarrowerWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(3, 0))),
    "long window + 1": (WiderWindow, SoftmaxAttention(2, 2, 8, pattern=SlidingWindow(127, 0))),
    "diagonal": (OtherDiagonal, SoftmaxAttention(2, 2, 8, pattern=Causal("lower_right"))),
    "empty rows": (NoGuard, SoftmaxAttention(2, 2, 8, mask="key_padding")),
    "heads": (SwappedHeads, SoftmaxAttention(2, 2, 8)),
    "groups": (InterleavedGroups, SoftmaxAttention(6, 2, 8)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_probe_finds_a_form_that_is_wrong(name: str, tmp_path: Path) -> None:
    """With the probe's own sizes: it is what decides in an export. The right form passes beside it."""
    wrong, spec = WRONG[name]
    ir.save(probe_model(wrong(), Core(spec)), tmp_path / "wrong.onnx")
    sizes = [size for size in (*GRID, *CROSS) if size[1] <= 128 and size[2] <= 128]
    if name == "long window + 1":
        sizes = [(1, 333, 333)]
    found = run_probe("onnxruntime", "cpu", tmp_path / "wrong.onnx", spec, sizes)
    assert not found.passed
    assert "wrong values" in found.reason
    assert found.max_abs > 100 * 5e-6  # far beyond rounding, so no tolerance would hide it
    ir.save(probe_model(Decomposed(), Core(spec)), tmp_path / "right.onnx")
    right = run_probe("onnxruntime", "cpu", tmp_path / "right.onnx", spec, sizes)
    assert right.passed, right.reason


def test_a_model_that_does_not_load_is_not_proven(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    result = run_probe("onnxruntime", "cpu", tmp_path / "broken.onnx", SoftmaxAttention(2, 2, 8), [(1, 2, 2)])
    assert not result.passed
    assert result.reason
