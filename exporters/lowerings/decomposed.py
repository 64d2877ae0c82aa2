"""MatMul, Softmax, MatMul in standard operators: the form every runtime has, and the body of the canonical function.

Every score and every normalizer has this form; where a spec says so, the softmax is another function of the scores.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from edgeattn.exporters.graph import Builder
from edgeattn.exporters.lowerings.base import Core, Lowering, Operands
from edgeattn.exporters.lowerings.normalize import weigh
from edgeattn.exporters.lowerings.visibility import Visibility, visibility
from edgeattn.spec import AttentionSpec


class Decomposed(Lowering):
    """Keys and values are repeated for grouped queries; scores of (B, H, S, T) are held."""

    name = "decomposed"
    summary = "MatMul, Softmax, MatMul in standard operators"
    takes = "every attention"

    def accepts(self, core: Core) -> str | None:
        return None

    def lower(self, b: Builder, core: Core, x: Operands) -> ir.Value:
        shown = self.shown(b, core, x)
        return attend(b, core.spec, with_repeated_heads(b, core.spec, x), shown)

    def outputs(self, b: Builder, core: Core, x: Operands) -> tuple[ir.Value, ...]:
        if not core.spec.lse:
            return (self.lower(b, core, x),)
        shown = self.shown(b, core, x)
        x = with_repeated_heads(b, core.spec, x)
        scores = shown.add(b, _scores(b, core.spec, x))
        peak = b.op("ReduceMax", scores, b.ints(-1), keepdims=1)
        shares = b.op("Exp", b.op("Sub", scores, peak))
        total = b.op("ReduceSum", shares, b.ints(-1), keepdims=1)
        context = b.op("Div", b.op("MatMul", shares, x.v), total)
        lse = b.op("Add", b.op("Log", total), peak)
        if shown.nonempty is not None:
            lse = b.op("Where", b.op("Greater", shown.nonempty, b.number(0)), lse, b.number(float("-inf")))
        return shown.guard(b, context), b.op("Squeeze", lse, b.ints(3))

    def shown(self, b: Builder, core: Core, x: Operands) -> Visibility:
        """What the queries see, as it is added to the scores."""
        return visibility(b, core, x)

    def scratch(self, spec: AttentionSpec, batch: int, queries: int, keys: int) -> int:
        repeated = keys * (spec.head_dim + spec.value_head_dim) if spec.group > 1 else 0
        wide = spec.head_dim if spec.score == "additive" else 1
        return batch * spec.q_heads * (queries * keys * wide + repeated)


def attend(b: Builder, spec: AttentionSpec, x: Operands, shown: Visibility) -> ir.Value:
    """The context of operands with as many key heads as query heads."""
    return shown.guard(b, b.op("MatMul", weigh(b, spec, _scores(b, spec, x), shown, x), x.v))


def _scores(b: Builder, spec: AttentionSpec, x: Operands) -> ir.Value:
    if x.score_weight is not None:
        return _additive(b, spec, x.q, x.k, x.score_weight)
    return scaled_scores(b, spec, x.q, x.k)


def with_repeated_heads(b: Builder, spec: AttentionSpec, x: Operands) -> Operands:
    """The operands with each key and value head `group` times."""
    return replace(x, k=repeat_heads(b, x.k, spec), v=repeat_heads(b, x.v, spec))


def scaled_scores(b: Builder, spec: AttentionSpec, q: ir.Value, k: ir.Value) -> ir.Value:
    """scale * q k^T with the soft cap. The scale follows the product: runtimes fold it into the MatMul there."""
    return capped(b, spec, b.op("Mul", b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), b.number(spec.scale)))


def _additive(b: Builder, spec: AttentionSpec, q: ir.Value, k: ir.Value, weight: ir.Value) -> ir.Value:
    """scale * tanh(q + k) w with the soft cap; (B, H, S, T, D) is held."""
    together = b.op("Tanh", b.op("Add", b.op("Unsqueeze", q, b.ints(3)), b.op("Unsqueeze", k, b.ints(2))))
    scores = b.op("Squeeze", b.op("MatMul", together, b.reshape(weight, spec.q_heads, 1, spec.head_dim, 1)), b.ints(4))
    return capped(b, spec, b.op("Mul", scores, b.number(spec.scale)))


def capped(b: Builder, spec: AttentionSpec, scores: ir.Value) -> ir.Value:
    """softcap * tanh(scores / softcap), where the spec has one."""
    if spec.softcap is None:
        return scores
    return b.op("Mul", b.op("Tanh", b.op("Div", scores, b.number(spec.softcap))), b.number(spec.softcap))


def repeat_heads(b: Builder, value: ir.Value, spec: AttentionSpec) -> ir.Value:
    """(B, K, T, D) -> (B, H, T, D), each head `group` times."""
    if spec.group == 1:
        return value
    wide = b.op("Expand", b.op("Unsqueeze", value, b.ints(2)), b.ints(1, 1, spec.group, 1, 1))
    return b.op("Reshape", wide, b.op("Concat", b.ints(0, spec.q_heads), b.size(value, 2), b.size(value, 3), axis=0))
