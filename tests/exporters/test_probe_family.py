"""The probe can say no to every kind of attention beyond plain softmax: each form here has one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Operands
from edgeattn.exporters.lowerings.decomposed import Decomposed
from edgeattn.exporters.probing import probe_model
from edgeattn.probe import ProbeResult, run_probe, sizes_for
from edgeattn.spec import (
    AttentionSpec,
    BlockSparse,
    Causal,
    Dilated,
    Entmax15,
    Fixed,
    GlobalLocal,
    PrefixLM,
    Sigmoid,
    SlidingWindow,
    Softmax,
    SoftmaxAttention,
    Sparsemax,
    Strided,
    TopK,
)


class Instead(Decomposed):
    """Writes another attention than the one asked for."""

    name: ClassVar[str] = "instead"

    def __init__(self, **change: Any) -> None:
        self.change = change

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        spec = replace(core.spec, **self.change)
        kept = {name: getattr(x, name) for name in spec.input_names}
        return super().lower(b, replace(core, spec=spec), Operands(**kept))


class Twisted(Decomposed):
    """Changes one input on the way in."""

    name: ClassVar[str] = "twisted"

    def __init__(self, operand: str, twist: Callable[[Builder, ir.Value], ir.Value]) -> None:
        self.operand, self.twist = operand, twist

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        changed: dict[str, Any] = {self.operand: self.twist(b, getattr(x, self.operand))}
        return super().lower(b, core, replace(x, **changed))


def reversed_first(b: Builder, value: ir.Value) -> ir.Value:
    """The first axis in reverse: heads, or rows of the batch."""
    return b.op("Slice", value, b.ints(-1), b.ints(-(1 << 40)), b.ints(0), b.ints(-1))


def plus(count: int) -> Callable[[Builder, ir.Value], ir.Value]:
    """Add to a whole number."""
    return lambda b, value: b.op("Add", value, b.index(count))


def spec(**fields: Any) -> AttentionSpec:
    return SoftmaxAttention(2, 2, 8, **fields)


LAYOUT = (("1100", "0110", "0011", "1001"),)
TURNED = (("1001", "1100", "0110", "0011"),)
PER_HEAD = (*LAYOUT, *TURNED)
DILATED, PACKED, PREFIX = spec(pattern=Dilated(2, 1, 3)), spec(mask="document"), spec(pattern=PrefixLM())
LONG, GLOBAL = spec(pattern=GlobalLocal(3, 0, 2, causal=True)), spec(pattern=GlobalLocal(3, 2, 2))

WRONG: dict[str, tuple[Decomposed, AttentionSpec]] = {
    "no sink": (Instead(sink=False), spec(sink=True)),
    "no sink beside a pattern": (Instead(sink=False), spec(sink=True, mask="key_padding", pattern=SlidingWindow(3, 0))),
    "sinks of other heads": (Twisted("sink", reversed_first), spec(sink=True)),
    "dot for additive": (Instead(score="dot", scale=0.0), spec(score="additive")),
    "additive weights of other heads": (Twisted("score_weight", reversed_first), spec(score="additive")),
    "no documents": (Instead(mask="none"), PACKED),
    "no documents in a causal row": (Instead(mask="none"), replace(PACKED, pattern=Causal())),
    "padding is a document": (Twisted("mask", plus(100)), PACKED),
    "documents of other rows": (Twisted("mask", reversed_first), PACKED),
    "no prefix": (Instead(pattern=Causal()), PREFIX),
    "prefix + 1": (Twisted("prefix", plus(1)), PREFIX),
    "prefix - 1": (Twisted("prefix", plus(-1)), PREFIX),
    "prefixes of other rows": (Twisted("prefix", reversed_first), PREFIX),
    "dilation + 1": (Instead(pattern=Dilated(2, 1, 4)), DILATED),
    "dilated, left + 1": (Instead(pattern=Dilated(3, 1, 3)), DILATED),
    "dilated, right - 1": (Instead(pattern=Dilated(2, 0, 3)), DILATED),
    "no gaps": (Instead(pattern=SlidingWindow(6, 3)), DILATED),
    "no global tokens": (Instead(pattern=SlidingWindow(3, 2)), GLOBAL),
    "global tokens + 1": (Instead(pattern=GlobalLocal(3, 2, 3)), GLOBAL),
    "global tokens - 1": (Instead(pattern=GlobalLocal(3, 2, 1)), GLOBAL),
    "causal global tokens - 1": (Instead(pattern=GlobalLocal(3, 0, 1, causal=True)), LONG),
    "global tokens not causal": (Instead(pattern=GlobalLocal(3, 0, 2)), LONG),
    "stride + 1": (Instead(pattern=Strided(5)), spec(pattern=Strided(4))),
    "no stride": (Instead(pattern=SlidingWindow(3, 0)), spec(pattern=Strided(4))),
    "fixed, columns - 1": (Instead(pattern=Fixed(4, 1)), spec(pattern=Fixed(4, 2))),
    "fixed, block + 1": (Instead(pattern=Fixed(5, 2)), spec(pattern=Fixed(4, 2))),
    "layout the other way": (Instead(pattern=BlockSparse(16, TURNED)), spec(pattern=BlockSparse(16, LAYOUT))),
    "layout, block + 1": (Instead(pattern=BlockSparse(17, LAYOUT)), spec(pattern=BlockSparse(16, LAYOUT))),
    "one layout for all heads": (Instead(pattern=BlockSparse(16, LAYOUT)), spec(pattern=BlockSparse(16, PER_HEAD))),
    "layouts of other heads": (Instead(pattern=BlockSparse(16, PER_HEAD[::-1])), spec(pattern=BlockSparse(16, PER_HEAD))),
    "layout not causal": (Instead(pattern=BlockSparse(16, LAYOUT)), spec(pattern=BlockSparse(16, LAYOUT, causal=True))),
    "softmax for sigmoid": (Instead(normalizer=Softmax()), spec(normalizer=Sigmoid())),
    "sigmoid without its offset": (Instead(normalizer=Sigmoid(0.0)), spec(normalizer=Sigmoid())),
    "sigmoid with the usual offset": (Instead(normalizer=Sigmoid()), spec(normalizer=Sigmoid(-2.0))),
    "sigmoid without padding": (Instead(mask="none"), spec(normalizer=Sigmoid(), mask="key_padding")),
    "softmax for sparsemax": (Instead(normalizer=Softmax()), spec(normalizer=Sparsemax())),
    "softmax for entmax": (Instead(normalizer=Softmax()), spec(normalizer=Entmax15())),
    "sparsemax for entmax": (Instead(normalizer=Sparsemax()), spec(normalizer=Entmax15())),
    "entmax in another window": (
        Instead(pattern=SlidingWindow(4, 0)),
        spec(pattern=SlidingWindow(3, 0), normalizer=Entmax15()),
    ),
    "softmax for top-k": (Instead(normalizer=Softmax()), spec(normalizer=TopK(4))),
    "k + 1": (Instead(normalizer=TopK(5)), spec(normalizer=TopK(4))),
    "k - 1": (Instead(normalizer=TopK(3)), spec(normalizer=TopK(4))),
}


def proven(form: Decomposed, wanted: AttentionSpec, path: Path) -> ProbeResult:
    """The probe's own sizes, without the longest: it is what decides in an export."""
    ir.save(probe_model(form, Core(wanted)), path)
    sizes = [size for size in sizes_for(wanted, square=False) if max(size[1:]) <= 128]
    return run_probe("onnxruntime", "cpu", path, wanted, sizes)


@pytest.mark.parametrize("name", WRONG)
def test_the_probe_finds_a_form_that_is_wrong(name: str, tmp_path: Path) -> None:
    """The right form passes beside it."""
    wrong, wanted = WRONG[name]
    found = proven(wrong, wanted, tmp_path / "wrong.onnx")
    assert not found.passed
    assert "wrong values" in found.reason
    assert found.max_abs > 100 * 5e-6  # far beyond rounding, so no tolerance would hide it
    right = proven(Decomposed(), wanted, tmp_path / "right.onnx")
    assert right.passed, right.reason
